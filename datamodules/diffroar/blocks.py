"""BlockMNIST: a block that decides the class and a constant block, one above the other in random order."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData
from datamodules.common.base import DataError, Spec, generator
from datamodules.common.loader import Columns, Images, Loader
from datamodules.common.views import View

POSITIONS = ("random", "top")


def null_patch(side: int) -> Tensor:
    """The constant block: the outline of a square with its two diagonals, two pixels wide. (side, side) uint8.

    It fills the middle 20 of 28 pixels, as MNIST's digits do.
    """
    margin = round(side * 4 / 28)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    first, last = margin, side - 1 - margin
    inside = (row >= first) & (row <= last) & (column >= first) & (column <= last)
    edge = torch.minimum(torch.minimum(row - first, last - row), torch.minimum(column - first, last - column)) < 2
    diagonal = ((row - column).abs() < 2) | ((row + column - (side - 1)).abs() < 2)
    return (255 * (inside & (edge | diagonal))).to(torch.uint8)


class Blocks(View, ArrayData):
    """Images of two blocks (1, 2 S, S): one is an image of `source` and gives the label, the other the constant patch.

    Which block is on top is a fair coin for every image, or always the source's image. A batch is x, y and `signal`
    (B,), the number of the source's block, 0 on top. Pixels stay in [0, 1].

    Args:
        source: grey square images; its splits and seed are used, its batch size and augmentation are not.
        batch_size: the global batch, over all devices.
        position: of the source's image: "random" or "top".
        generated: see DataModule.
    Raises:
        DataError: another position, or images that are not grey squares.
    """

    blocks = 2
    relevant = 2

    def __init__(self, source: ArrayData, batch_size: int, position: str = "random", generated: bool = False) -> None:
        super().__init__(source, batch_size, generated=generated)
        if position not in POSITIONS:
            raise DataError(f"position={position!r}: expected one of {', '.join(POSITIONS)}")
        channels, height, width = source.spec.shape
        if channels != 1 or height != width:
            raise DataError(f"{source.spec.name} has inputs of {source.spec.shape}; expected grey squares")
        self.position = position
        self.peak = source.peak
        self.signal: dict[str, Tensor] = {}

    @property
    def spec(self) -> Spec:
        return self._spec or self.declared()

    def declared(self) -> Spec:
        there = self.source.spec
        side = there.shape[-1]
        words = "on top" if self.position == "top" else "on top or below by a fair coin"
        return replace(
            there,
            name=f"blocks of {there.name}",
            shape=(1, 2 * side, side),
            mean=(0.0,),
            std=(1.0,),
            split=f"{there.split}; {words}, beside a constant patch",
        )

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        self.source.setup(stage)
        for name, (images, labels) in self.source.splits.items():
            self.signal[name] = self._coins(len(labels), name)
            self.splits[name] = (self._stacked(images, self.signal[name]), labels)
        self._settle(self.declared())

    def _coins(self, count: int, name: str) -> Tensor:
        if self.position == "top":
            return torch.zeros(count, dtype=torch.long)
        source = generator("which block is on top", self.seed, ("train", "val", "test").index(name))
        return torch.randint(2, (count,), generator=source)

    @staticmethod
    def _stacked(images: Tensor, signal: Tensor) -> Tensor:
        """Images (N, 1, S, S) and the number of their block (N,) -> (N, 1, 2 S, S)."""
        null = null_patch(images.shape[-1]).expand_as(images)
        below = (signal == 1).view(-1, 1, 1, 1)
        return torch.cat([torch.where(below, null, images), torch.where(below, images, null)], 2)

    def fetch(self, name: str, *, augment: bool) -> Images:
        images, labels = self.splits[name]
        return Images(Columns(self.device, x=images, y=labels, signal=self.signal[name]), self.spec, self.peak)

    def val_dataloader(self) -> list[Loader]:
        return []
