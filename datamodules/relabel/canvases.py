"""Canvases of one or two items in four cells with a single label, whose crops often show the item without the label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData
from datamodules.common.augment import HorizontalFlip, RandomResizedCrop
from datamodules.common.base import DataError, DataModule, Fed, Share, Spec, generator, hashed
from datamodules.common.loader import Columns, Images, Loader, batch_type
from datamodules.common.photo_patches import CELLS, assemble
from datamodules.common.views import View
from datamodules.relabel.maps import maps_of

HALVES = ("first", "second")


@dataclass(frozen=True)
class Scenes:
    """N canvases.

    Attributes:
        canvas: (N, C, 2H, 2W) uint8.
        valid: (N, 2) classes on it; the first is the single label, the second -1 where there is one item alone.
        cells: (N, 2) where the items are: 0 and 1 above, 2 and 3 below.
    """

    canvas: Tensor
    valid: Tensor
    cells: Tensor

    def __len__(self) -> int:
        return len(self.canvas)


@dataclass(frozen=True)
class Augmentation:
    """What training canvases go through.

    Attributes:
        crop: None shows them whole.
        mirror: probability of mirroring one, after the crop.
    """

    crop: RandomResizedCrop | None = None
    mirror: float = 0.5


@dataclass(frozen=True)
class Counts:
    """How many canvases there are.

    Attributes:
        singles, pairs: for training, with one item and with two.
        val_singles: of one item each, from the source's validation images, which no training canvas shows.
        test_singles, test_pairs: from the source's test images.
    """

    singles: int = 0
    pairs: int = 2000
    val_singles: int = 0
    test_singles: int = 2000
    test_pairs: int = 0


def draw(images: Tensor, labels: Tensor, singles: int, pairs: int, source: torch.Generator) -> Scenes:
    """Canvases of one item, then canvases of two items of different classes, in random cells.

    Each item gives its label to equally many canvases. Which of a pair's items gives it is chance: nothing on the
    canvas tells.

    Args:
        images: (M, C, H, W) uint8.
        labels: (M,) int64, of two classes or more.
        singles, pairs: how many of each.
        source: the randomness.
    """
    count, sizes = singles + pairs, labels.bincount()
    present = sizes.nonzero().flatten()
    passes = [torch.randperm(len(labels), generator=source) for _ in range(-(-count // len(labels)))]
    first = torch.cat(passes)[:count]  # (N,)

    place = torch.searchsorted(present, labels[first])
    away = torch.randint(1, len(present), (count,), generator=source)
    other = present[(place + away) % len(present)]  # (N,) any class but the first item's
    order, starts = labels.argsort(stable=True), sizes.cumsum(0) - sizes
    second = order[starts[other] + (torch.rand(count, generator=source) * sizes[other]).long()]

    items = torch.stack([first, second], 1)  # (N, 2)
    items[:singles, 1] = -1
    cells = torch.rand(count, CELLS, generator=source).argsort(1)[:, :2]
    valid = torch.where(items < 0, -1, labels[items])
    return Scenes(assemble(images, items, cells, 0), valid, cells)


def only_visible(boxes: Tensor, valid: Tensor, cells: Tensor) -> Tensor:
    """The class of the item whose cell a crop meets, (B,); -1 where it meets no item's cell or two.

    Args:
        boxes: (B, 4) of x1, y1, x2, y2 as fractions.
        valid, cells: (B, 2), see Scenes.
    """
    corner = torch.stack([cells % 2, cells // 2], 2) / 2  # (B, 2 items, x and y)
    low, high = boxes[:, None, :2], boxes[:, None, 2:]  # (B, 1, x and y)
    overlap = (torch.minimum(high, corner + 0.5) - torch.maximum(low, corner)).clamp(min=0).prod(2)
    seen = (overlap > 0) & (valid >= 0)  # (B, 2)
    item = seen.long().argmax(1, keepdim=True)
    return torch.where(seen.sum(1) == 1, valid.gather(1, item)[:, 0], -1)


class Canvases(View, DataModule):
    """Items of `source` on canvases of 2 x 2 cells, drawn once from the seed.

    Training batches are (x, y); with a crop also box (B, 4), x1, y1, x2, y2 as fractions of the canvas, and shown (B,),
    the class of the only item that the crop meets (-1: none or two); fed with label maps also map (B, 2, K, H, W).
    Validation and test batches of single items are (x, y), those of pairs (x, y, valid (B, 2)), served by a loader of
    their own.

    Args:
        source: the items; each split's canvases show the images of that split.
        batch_size: the global batch, over all devices.
        half: which half of the source's training images is shown, "first" or "second".
        counts: how many canvases of which kind.
        augmentation: of training canvases.
        maps: a finished stage that made label maps of these training canvases, see WholeCanvases.
        seed, generated: see DataModule.
    Raises:
        DataError: another `half`, maps without a crop, maps of other canvases, or validation canvases of a source
            without validation images.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        half: str = "second",
        counts: Counts | None = None,
        augmentation: Augmentation | None = None,
        maps: Fed | None = None,
        seed: int | None = None,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, seed, generated)
        if half not in HALVES:
            raise DataError(f"half={half!r}: expected one of {', '.join(HALVES)}")
        augmentation = augmentation or Augmentation()
        if maps is not None and augmentation.crop is None:
            raise DataError("label maps are pooled over crops: augmentation.crop is missing")
        self.half, self.crop, self.mirror = half, augmentation.crop, HorizontalFlip(augmentation.mirror)
        counts = counts or Counts()
        if counts.val_singles and not source.val_size:
            raise DataError(f"val_singles={counts.val_singles}: the source has no validation images; set its val_size")
        self.counts = {  # canvases of one item and of two; a split's randomness goes by its place here
            "train": (counts.singles, counts.pairs),
            "test": (counts.test_singles, 0),
            "pairs": (0, counts.test_pairs),
            "val": (counts.val_singles, 0),
        }
        self.fed = maps
        self.maps: Tensor | None = None  # (N, 2, K, H, W)
        self.scenes: dict[str, Scenes] = {}
        self._identity = ""

    @property
    def spec(self) -> Spec:
        there = self.source.spec
        channels, height, width = there.shape
        singles, pairs = self.counts["train"]
        return replace(
            there,
            name=f"canvases of {there.name}",
            shape=(channels, 2 * height, 2 * width),
            sizes={"train": singles + pairs, "val": self.counts["val"][0], "test": self.counts["test"][0]},
            split=f"{singles} training canvases of one item and {pairs} of two, items from the {self.half} half of the"
            f" training images; {self.counts['test'][0]} test canvases of one item, {self.counts['pairs'][1]} of two;"
            f" items: {there.split}",
            identity=self._identity,
        )

    def setup(self, stage: str | None = None) -> None:
        if self.scenes:
            return
        self.source.setup(stage)
        for number, (name, (singles, pairs)) in enumerate(self.counts.items()):
            if singles + pairs:
                random = generator("canvases", self.seed, number, HALVES.index(self.half))
                self.scenes[name] = draw(*self._items(name), singles, pairs, random)
        self._identity = hashed(*(t for s in self.scenes.values() for t in (s.canvas, s.valid)))
        if self.fed is not None:
            self.maps = torch.tensor(maps_of(self.fed, self.scenes["train"].valid[:, 0]))
            self.fed = None  # it holds the annotator

    def _items(self, name: str) -> tuple[Tensor, Tensor]:
        images, labels = self.source.splits["test" if name == "pairs" else name]
        if name != "train":
            return images, labels
        middle = len(labels) // 2
        part = slice(0, middle) if self.half == "first" else slice(middle, None)
        return images[part], labels[part]

    def _columns(self, name: str, **further: Tensor | None) -> Columns:
        scenes = self.scenes[name]
        return Columns(self.device, x=scenes.canvas, y=scenes.valid[:, 0], **further)

    def _cropped(self) -> Callable[[Share], Any]:
        """Makes training batches whose crops tell their boxes."""
        scenes, crop = self.scenes["train"], self.crop
        assert crop is not None
        maps = {} if self.maps is None else {"map": self.maps}
        columns = self._columns("train", valid=scenes.valid, cells=scenes.cells, **maps)
        make = batch_type(("x", "y", "box", "shown", *maps))
        mean, std = (torch.tensor(v, device=self.device).view(1, -1, 1, 1) for v in (self.spec.mean, self.spec.std))

        def fetch(share: Share) -> Any:
            batch = columns(share)
            draws = share.generator()
            x, box = crop.crop(batch.x / 255, draws)  # (B, C, S, S), (B, 4)
            x = self.mirror(x, draws)  # a box is cut before mirroring: it stays
            shown = only_visible(box, batch.valid, batch.cells)
            return make((x - mean) / std, batch.y, box, shown, *batch[4:])

        return fetch

    def train_dataloader(self) -> Loader:
        whole = Images(self._columns("train"), self.spec, augment=(self.mirror,))
        batches = self.batches(len(self.scenes["train"]), shuffle=True)
        return Loader(batches, whole if self.crop is None else self._cropped())

    def val_dataloader(self) -> Loader | list[Loader]:
        return self._test_loader("val") if "val" in self.scenes else []

    def test_dataloader(self) -> Loader | list[Loader]:
        singles = self._test_loader("test")
        if "pairs" not in self.scenes:
            return singles
        return [singles, self._test_loader("pairs", valid=self.scenes["pairs"].valid)]

    def _test_loader(self, name: str, **further: Tensor | None) -> Loader:
        batches = self.batches(len(self.scenes[name]), shuffle=False)
        return Loader(batches, Images(self._columns(name, **further), self.spec))


class WholeCanvases(Canvases):
    """The training canvases, whole and in order, as what is tested on: (x, y, row). Label maps are made of them."""

    @property
    def spec(self) -> Spec:
        there = super().spec
        return replace(there, sizes={"train": 0, "val": 0, "test": there.sizes["train"]})

    def test_dataloader(self) -> Loader:
        return self._test_loader("train", row=None)
