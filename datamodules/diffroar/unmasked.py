"""Images of which a share of the coordinates is kept, by a ranking that another stage made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.augment import Augmentation
from datamodules.common.base import DataError, Fed, Share, Spec, generator, hashed
from datamodules.common.loader import Columns, Images, Loader, batch_type
from datamodules.common.views import View

if TYPE_CHECKING:
    from datamodules.common.folders import ImageFolder

KINDS = ("logit", "loss", "random")
FILLS = ("mean", "black")


def unmask(x: Tensor, place: Tensor, count: int, fill: Tensor) -> tuple[Tensor, Tensor]:
    """Keeps the first, and keeps the last, of an order of coordinates.

    Args:
        x: images (B, C, H, W).
        place: of each coordinate in its image's order, (B, C H W); 0 is first.
        count: k d, how many are kept.
        fill: what stands in for the others, broadcast against x.
    Returns:
        x^top_k and x^bot_k, (B, C, H, W) both.
    """
    place = place.view_as(x)
    d = x[0].numel()
    return torch.where(place < count, x, fill), torch.where(place >= d - count, x, fill)


def others(groups: Tensor, source: torch.Generator) -> Tensor:
    """For each image another one of its group: one cycle through each group's images, in a random order.

    An image that is alone in its group gets itself.

    Args:
        groups: (N,) whole numbers.
        source: of the order.
    Returns:
        (N,) numbers of images, each of them once.
    """
    order = torch.randperm(len(groups), generator=source)
    other = torch.empty_like(order)
    for group in groups.unique():
        members = order[groups[order] == group]
        other[members] = members.roll(1)
    return other


def fixed_images(source: Any, split: str) -> Split:
    """A split's images, not augmented, photos as they would be tested: uint8 (N, C, H, W), labels (N,)."""
    if isinstance(source, ArrayData):
        return source.splits[split]
    return source.fixed(split), torch.tensor([label for _, label in source.items[split]])


class Fixed(View):
    """A source's training and test images as they are, held in memory.

    Args:
        source: images in memory, or photos.
        batch_size: the global batch, over all devices.
        generated: see DataModule.
    """

    def __init__(self, source: ArrayData | ImageFolder, batch_size: int, generated: bool = False) -> None:
        super().__init__(source, batch_size, generated=generated)
        self.images: dict[str, Split] = {}
        self.identity = ""

    @property
    def sizes(self) -> dict[str, int]:
        there = self.source.spec.sizes
        return {"train": there["train"], "val": 0, "test": there["test"]}

    @property
    def spec(self) -> Spec:
        return replace(self.source.spec, sizes=self.sizes, identity=self.identity or self.source.spec.identity)

    def setup(self, stage: str | None = None) -> None:
        if self.images:
            return
        self.source.setup(stage)
        self.images = {name: self._split(name) for name in ("train", "test")}
        self.identity = hashed(*(tensor for split in self.images.values() for tensor in split))

    def _split(self, name: str) -> Split:
        if not self.generated:
            return fixed_images(self.source, name)
        count = min(self.source.spec.sizes[name], 4 * self.batch_size)
        source = generator("stand-in of a split", self.seed, name == "test")
        images = torch.randint(256, (count, *self.source.spec.shape), generator=source, dtype=torch.uint8)
        return images, torch.randint(len(self.source.spec.classes), (count,), generator=source)

    def val_dataloader(self) -> list[Loader]:
        return []


class Everything(Fixed):
    """The training images, then the test images, as a test set: x, y."""

    @property
    def sizes(self) -> dict[str, int]:
        there = super().sizes
        return {"train": there["train"], "val": 0, "test": there["train"] + there["test"]}

    @property
    def spec(self) -> Spec:
        return replace(super().spec, split=f"{self.source.spec.split}; training and test images, not augmented")

    def test_dataloader(self) -> Loader:
        images, labels = (torch.cat(parts) for parts in zip(*self.images.values(), strict=True))
        columns = Columns(self.device, x=images, y=labels)
        peak = getattr(self.source, "peak", 255)
        return Loader(self.batches(len(labels), shuffle=False), Images(columns, self.source.spec, peak))


class Unmasked(Fixed):
    """The largest and the smallest coordinates of each image by a ranking; the others are filled.

    Batches are top, bottom (B, C, H, W) and y. Both sides of an image are augmented alike, after they are filled.

    Args:
        source: the images; those that the ranking is of, in the same order.
        batch_size: the global batch, over all devices.
        percent: k, of the coordinates C H W that each side keeps, in (0, 100].
        kind: "logit" or "loss" gradients, or "random", a control.
        ranking: the stage that ranked, see modules.diffroar.ranking.Rank; not with "random".
        permuted: each image is unmasked by another image's ranking, a control.
        same_class: that of another image of the same predicted class; with `permuted` only.
        fill: "mean", 0 as the network sees it, or "black".
        augment: operations on training batches, in order.
        generated: see DataModule.
    Raises:
        DataError: an unknown kind or fill, another share, or a ranking of other images.
    """

    def __init__(
        self,
        source: ArrayData | ImageFolder,
        batch_size: int,
        percent: float,
        kind: str = "logit",
        ranking: Fed | None = None,
        permuted: bool = False,
        same_class: bool = False,
        fill: str = "mean",
        augment: Sequence[Augmentation] = (),
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated)
        if kind not in KINDS:
            raise DataError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
        if fill not in FILLS:
            raise DataError(f"fill={fill!r}: expected one of {', '.join(FILLS)}")
        if not 0 < percent <= 100:
            raise DataError(f"percent={percent}: expected more than 0 and at most 100")
        if (kind == "random") != (ranking is None):
            raise DataError(f"kind={kind!r} and feeds: ranking: one is random, or the other is there")
        if same_class and (not permuted or ranking is None):
            raise DataError("same_class=true: expected permuted=true and feeds: ranking")
        self.percent = percent
        self.kind = kind
        self.ranking = ranking
        self.permuted = permuted
        self.same_class = same_class
        self.fill = fill
        self.augment = augment
        self.places: dict[str, np.ndarray] = {}

    @property
    def coordinates(self) -> int:
        """d."""
        channels, height, width = self.source.spec.shape
        return channels * height * width

    @property
    def count(self) -> int:
        """k d, at least 1."""
        return max(1, round(self.percent / 100 * self.coordinates))

    @property
    def spec(self) -> Spec:
        words = f"{self.source.spec.split}; {self.count} of {self.coordinates} coordinates kept by {self.kind} ranking"
        return replace(super().spec, split=words)

    def setup(self, stage: str | None = None) -> None:
        if self.images:
            return
        super().setup(stage)
        sizes = {name: len(labels) for name, (_, labels) in self.images.items()}
        if self.generated or self.ranking is None:
            self.places = {name: self._random(count, name) for name, count in sizes.items()}
        else:
            self.places = self._ranked(sizes)
        if self.permuted:
            groups = self._groups(sizes)
            self.places = {name: self._dealt(places, groups[name], name) for name, places in self.places.items()}
        ranks = hashed(*(torch.tensor(places.astype(np.int32)) for places in self.places.values()))
        self.identity = f"{ranks}{self.identity}"[:24]

    def _ranked(self, sizes: dict[str, int]) -> dict[str, np.ndarray]:
        assert self.ranking is not None
        places = self.ranking.arrays[self.kind]
        expected = (sum(sizes.values()), self.coordinates)
        if places.shape != expected:
            raise DataError(
                f"a ranking of (images, coordinates) = {places.shape}; {self.source.spec.name} has {expected}"
            )
        return {"train": places[: sizes["train"]], "test": places[sizes["train"] :]}

    def _groups(self, sizes: dict[str, int]) -> dict[str, Tensor]:
        """Whose rankings may be exchanged: all images', or those of the same predicted class, (N,) in each split."""
        if not self.same_class:
            return {name: torch.zeros(count, dtype=torch.long) for name, count in sizes.items()}
        if self.generated or self.ranking is None:
            return {name: labels for name, (_, labels) in self.images.items()}
        predicted = torch.from_numpy(self.ranking.arrays["predicted"].astype(np.int64))
        return {"train": predicted[: sizes["train"]], "test": predicted[sizes["train"] :]}

    def _random(self, count: int, name: str) -> np.ndarray:
        source = generator("random ranking", self.seed, name == "test")
        chunks = [torch.rand(rows, self.coordinates, generator=source).argsort(1) for rows in _parts(count)]
        return torch.cat(chunks).numpy().astype(np.uint16)

    def _dealt(self, places: np.ndarray, groups: Tensor, name: str) -> np.ndarray:
        """Every image gets the ranking of another one of its group."""
        source = generator("rankings of others", self.seed, name == "test")
        return places[others(groups, source).numpy()]

    def fetch(self, name: str, *, augment: bool) -> Any:
        """Makes a split's batches."""
        images, labels = self.images[name]
        places = self.places[name]
        mean, std = (torch.tensor(v, device=self.device).view(-1, 1, 1) for v in (self.spec.mean, self.spec.std))
        fill = torch.zeros_like(mean) if self.fill == "mean" else -mean / std
        peak = getattr(self.source, "peak", 255)
        make = batch_type(("top", "bottom", "y"))

        def fetch(share: Share) -> Any:
            rows = share.indices
            x = (images[rows].to(self.device) / peak - mean) / std  # (B, C, H, W)
            place = torch.from_numpy(places[rows.numpy()].astype(np.int32)).to(self.device)
            sides = torch.cat(unmask(x, place, self.count, fill), 1)  # (B, 2 C, H, W): moved together
            draws = share.generator()
            for operation in self.augment if augment else ():
                sides = operation(sides, draws)
            top, bottom = sides.chunk(2, 1)
            return make(top, bottom, labels[rows].to(self.device))

        return fetch

    def _loader(self, name: str) -> Loader:
        train = name == "train"
        batches = self.batches(len(self.images[name][1]), shuffle=train)
        return Loader(batches, self.fetch(name, augment=train))

    def train_dataloader(self) -> Loader:
        return self._loader("train")

    def test_dataloader(self) -> Loader:
        return self._loader("test")


def _parts(count: int, most: int = 4096) -> list[int]:
    """A count as a list of counts that fit into memory."""
    return [min(most, count - first) for first in range(0, count, most)]
