"""Parts of generated species, cut out one by one: each class is a value of the one attribute that its part decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.augment import Augmentation
from datamodules.common.base import DataError, Spec
from datamodules.common.species import ATTRIBUTES, PARTS, Species, values_of
from datamodules.common.views import View


def cut(images: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Squares around the middles of boxes; beyond the border the image's edge goes on.

    Args:
        images: (N, C, H, W) uint8.
        boxes: (N, 4), x1, y1, x2, y2 in pixels.
        side: of the squares, pixels.
    Returns:
        (N, C, side, side).
    """
    padded = F.pad(images.float(), [side] * 4, mode="replicate").to(images.dtype)
    corner = ((boxes[:, :2] + boxes[:, 2:] - side) / 2).round().long() + side  # (N, 2) of x, y
    line = torch.arange(side)
    rows = (corner[:, 1, None] + line)[:, :, None]
    columns = (corner[:, 0, None] + line)[:, None, :]
    return padded[torch.arange(len(images))[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


class Parts(View, ArrayData):
    """Squares around parts of `source`'s pictures. The classes are the values of the parts' attributes.

    A part shows all four attributes; the grey of its lobe says which of them is asked for. So what a class is about is
    known: its hue, its texture or its outline, and nothing else of it.

    Args:
        source: the pictures; its splits and seed are used, its batch size and augmentation are not.
        batch_size: the global batch, over all devices.
        parts: whose squares are cut out.
        side: of a square, pixels.
        train_per_class, test_per_class: squares of each class, from the source's first pictures on.
        augment, rows, generated: see ArrayData.
    Raises:
        DataError: an unknown part, or fewer pictures than squares asked for.
    """

    source: Species

    def __init__(
        self,
        source: Species,
        batch_size: int,
        parts: Sequence[str] = ("hue", "texture", "outline"),
        side: int = 32,
        train_per_class: int = 150,
        test_per_class: int = 100,
        augment: Sequence[Augmentation] = (),
        rows: bool = False,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated, augment=augment, rows=rows)
        for part in parts:
            if part not in PARTS:
                raise DataError(f"parts: {part!r}: expected one of {', '.join(PARTS)}")
        self.parts = list(parts)
        self.side = side
        self.per_class = {"train": train_per_class, "test": test_per_class}

    @property
    def shows(self) -> list[str]:
        """The part whose attribute each class is a value of."""
        return [part for part in self.parts for _ in ATTRIBUTES[part]]

    def declared(self) -> Spec:
        there = self.source.spec
        names = tuple(f"{part} {value}" for part in self.parts for value in ATTRIBUTES[part])
        return replace(
            there,
            name="parts of species",
            shape=(3, self.side, self.side),
            classes=names,
            sizes={"val": 0} | {name: count * len(names) for name, count in self.per_class.items()},
            split=f"squares around the {', '.join(self.parts)} parts; {there.split}",
        )

    @property
    def spec(self) -> Spec:
        return self._spec or self.declared()

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        self.source.setup(stage)
        for name in self.per_class:
            self.splits[name] = self._squares(name)
        self._settle(self.declared())

    def _squares(self, name: str) -> Split:
        images, labels = self.source.splits[name]
        values = values_of(labels)  # (N, 4)
        count = self.per_class[name]
        squares = []
        for part in self.parts:
            number = PARTS.index(part)
            for value, word in enumerate(ATTRIBUTES[part]):
                rows = (values[:, number] == value).nonzero().flatten()[:count]
                if len(rows) < count:
                    raise DataError(f"{part} {word}: {len(rows)} {name} pictures where {count} are asked for")
                squares.append(cut(images[rows], self.source.known[name].boxes[rows, number], self.side))
        return torch.cat(squares), torch.arange(len(squares)).repeat_interleave(count)
