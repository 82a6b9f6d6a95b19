"""Labelled images of a user, served in place of a paper's: all in memory, as squares of one size.

The test images are the same for every seed: the user's own test part, or a share of each class. Of the others, a seed
shuffles an order in which every stretch holds the classes in their shares; training images come from its beginning,
validation images from its end.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.base import DataError, Spec, generator
from datamodules.common.folders import UNREADABLE

COLOUR = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of ImageNet's photos
GREY = (0.449,), (0.226,)


@dataclass(frozen=True)
class Rows:
    """Images before they are opened.

    Attributes:
        items: what `picture` opens.
        labels: the class of each, by name.
        tested: whether each is a test image; all false where the user says nothing of a test.
    """

    items: tuple[Any, ...]
    labels: tuple[str, ...]
    tested: tuple[bool, ...]


class OwnImages(ArrayData):
    """Labelled images of a user, served as a paper's small data is.

    Args:
        batch_size, options: see ArrayData: train_size, val_size, test_size, label_noise, augment, seed, generated,
            views, rows.
        side: of the squares served, pixels: the shorter side becomes so long, and the middle is cut out.
        grey: one channel in place of three.
        test_share: of each class, where the data has no test part of its own.
        mean, std: per channel, of [0, 1] images; None takes ImageNet's.
        title: what the data is called; None takes the name of its folder or file.
    Raises:
        DataError: nothing there, a damaged file, fewer than two classes, a class of a single image.
    """

    def __init__(
        self,
        batch_size: int,
        side: int = 64,
        grey: bool = False,
        test_share: float = 0.25,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        title: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(batch_size, **options)
        if side < 1:
            raise DataError(f"side={side}: expected 1 pixel or more")
        if not 0 < test_share < 1:
            raise DataError(f"test_share={test_share}: expected a share between 0 and 1, without both")
        self.side = side
        self.grey = grey
        self.test_share = test_share
        usual = GREY if grey else COLOUR
        self.mean: tuple[float, ...] = tuple(mean) if mean is not None else usual[0]
        self.std: tuple[float, ...] = tuple(std) if std is not None else usual[1]
        channels = 1 if grey else 3
        if {len(self.mean), len(self.std)} != {channels}:
            raise DataError(f"mean and std of {len(self.mean)} and {len(self.std)} numbers: expected {channels} each")
        self.title = title
        self._parts: tuple[tuple[str, ...], Rows, Tensor] | None = None

    @abstractmethod
    def list_rows(self) -> Rows:
        """All images, before they are opened. Raises DataError that says what is missing."""

    @abstractmethod
    def picture(self, item: Any) -> Image.Image:
        """An image, opened. Raises one of folders.UNREADABLE if it is damaged."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the images are, for messages."""

    def available(self) -> str:
        try:
            self._parted()
        except DataError as error:
            return str(error)
        return ""

    def declared(self) -> Spec:
        classes, rows, tested = self._parted()
        return Spec(
            name=self.title or Path(self.place).stem,
            shape=(1 if self.grey else 3, self.side, self.side),
            classes=classes,
            sizes={"train": int((~tested).sum()), "test": int(tested.sum())},
            mean=self.mean,
            std=self.std,
            split="the test part that the data has; val from the rest by the seed"
            if any(rows.tested)
            else f"{self.test_share:.0%} of each class, the same for all seeds; val from the rest by the seed",
            where=self.place,
        )

    def smallest_class(self) -> int:
        """Training images of the smallest class, before sizes are chosen."""
        _, rows, tested = self._parted()
        return min(_count(rows, ~tested).values())

    def _parted(self) -> tuple[tuple[str, ...], Rows, Tensor]:
        """Class names in order, all rows, and which of them (N,) are of the test."""
        if self._parts is None:
            rows = self.list_rows()
            classes = tuple(sorted(set(rows.labels)))
            if len(classes) < 2:
                raise DataError(f"{self.place}: {len(classes)} class(es); expected two or more")
            tested = self._tested(rows, classes)
            self._check_each(rows, tested)
            self._parts = classes, rows, tested
        return self._parts

    def _check_each(self, rows: Rows, tested: Tensor) -> None:
        """Raises DataError for a class of which no image is for training, or none for the test."""
        counts = Counter(rows.labels)
        trained = _count(rows, ~tested)
        for name in sorted(counts):
            if not trained[name] or trained[name] == counts[name]:
                raise DataError(
                    f"{self.place}: class {name!r} has {trained[name]} training and {counts[name] - trained[name]} "
                    "test images; expected one or more of each"
                )

    def _tested(self, rows: Rows, classes: Sequence[str]) -> Tensor:
        if any(rows.tested):
            return torch.tensor(rows.tested)
        tested = torch.zeros(len(rows.labels), dtype=torch.bool)
        for number, name in enumerate(classes):
            own = torch.tensor([index for index, label in enumerate(rows.labels) if label == name])
            drawn = own[torch.randperm(len(own), generator=generator("own test images", number))]
            tested[drawn[: max(1, round(self.test_share * len(own)))]] = True
        return tested

    def read(self) -> tuple[Split, Split]:
        classes, rows, tested = self._parted()
        images = self._decoded(rows.items)
        labels = torch.tensor([classes.index(label) for label in rows.labels])
        return (images[~tested], labels[~tested]), (images[tested], labels[tested])

    def _decoded(self, items: Sequence[Any]) -> Tensor:
        """(N, C, side, side) uint8."""
        images = torch.empty(len(items), 1 if self.grey else 3, self.side, self.side, dtype=torch.uint8)
        for row, item in enumerate(items):
            try:
                images[row] = square(self.picture(item), self.side, grey=self.grey)
            except UNREADABLE as error:
                raise DataError(f"{self.place}: {item} is damaged: {str(error).splitlines()[0]}") from error
        return images

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        spec = self._sized(self.declared())
        if self.generated:
            self._stand_in(spec)
            return
        (images, labels), (test_images, test_labels) = self.read()
        order = balanced(labels, generator("own split", self.seed))
        parts = {"train": order[: spec.sizes["train"]], "val": order[len(order) - spec.sizes["val"] :]}
        self.splits = {name: (images[part], labels[part]) for name, part in parts.items()}

        test_order = balanced(test_labels, generator("own test subset", self.seed))
        chosen = test_order[: spec.sizes["test"]].sort().values
        self.splits["test"] = (test_images[chosen], test_labels[chosen])
        self._settle(spec)
        if self.label_noise:
            self._replace_labels(len(spec.classes))

    def _replace_labels(self, classes: int) -> None:
        """A share of the training labels becomes random classes."""
        source = generator("label noise", self.seed)
        count = len(self.clean_labels)
        noisy = torch.rand(count, generator=source) < self.label_noise
        random = torch.randint(classes, (count,), generator=source)
        self.splits["train"] = (self.splits["train"][0], torch.where(noisy, random, self.clean_labels))


def _count(rows: Rows, chosen: Tensor) -> Counter[str]:
    """Images of each class among the chosen rows, (N,) flags."""
    return Counter(label for label, is_chosen in zip(rows.labels, chosen.tolist(), strict=True) if is_chosen)


def balanced(labels: Tensor, source: torch.Generator) -> Tensor:
    """An order of all rows in which every stretch holds the classes in their shares, up to one of each.

    The k-th of a class's n images, in random order, stands at (k + 1/2) / n of the way.

    Args:
        labels: (N,) int64.
        source: of the random numbers.
    """
    place = torch.empty(len(labels), dtype=torch.float64)
    shuffled = torch.randperm(len(labels), generator=source)
    for label in labels.unique():
        own = shuffled[labels[shuffled] == label]
        place[own] = (torch.arange(len(own), dtype=torch.float64) + 0.5) / len(own)
    return shuffled[place[shuffled].argsort(stable=True)]


def square(picture: Image.Image, side: int, *, grey: bool) -> Tensor:
    """The middle of a picture, (1 or 3, side, side) uint8: scaled by Pillow so that the shorter side fits, then cut."""
    picture = picture.convert("L" if grey else "RGB")
    scale = side / min(picture.size)
    width, height = (max(side, round(length * scale)) for length in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=None)
    left, top = (width - side) // 2, (height - side) // 2
    pixels = torch.from_numpy(np.array(picture.crop((left, top, left + side, top + side))))
    return pixels.unsqueeze(0) if grey else pixels.permute(2, 0, 1)
