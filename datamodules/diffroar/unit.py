"""Pixels as they are, in [0, 1]: what is masked with 0 is then black, as an empty pixel is."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData
from datamodules.common.base import DataError, Spec, generator
from datamodules.common.views import View


def place(images: Tensor, side: int, corners: Tensor) -> Tensor:
    """Each image on a black square of its own.

    Args:
        images: (N, C, H, W).
        side: of the squares, pixels.
        corners: (N, 2), row and column of each image's upper left pixel.
    Returns:
        (N, C, side, side).
    """
    count, channels, height, width = images.shape
    squares = images.new_zeros(count, channels, side, side)
    rows = (corners[:, :1] + torch.arange(height))[:, None, :, None]
    columns = (corners[:, 1:] + torch.arange(width))[:, None, None, :]
    squares[torch.arange(count)[:, None, None, None], torch.arange(channels)[:, None, None], rows, columns] = images
    return squares


class UnitPixels(View, ArrayData):
    """The source's images without mean and std: the network sees pixels in [0, 1].

    With `side` each image stands somewhere on a larger black square, every place equally likely: where an object is
    differs from image to image.

    Args:
        source: images in memory; its splits, seed and augmentation are used, its batch size is not.
        batch_size: the global batch, over all devices.
        side: of the black squares, pixels; None leaves the images as they are.
        generated: see DataModule.
    Raises:
        DataError: squares that are smaller than the images.
    """

    def __init__(self, source: ArrayData, batch_size: int, side: int | None = None, generated: bool = False) -> None:
        super().__init__(source, batch_size, generated=generated, augment=source.augment)
        self.peak = source.peak
        self.side = side
        if side is not None and side < max(source.spec.shape[1:]):
            raise DataError(f"side={side}: {source.spec.name} has images of {max(source.spec.shape[1:])} pixels")

    @property
    def spec(self) -> Spec:
        return self._spec or self.declared()

    def declared(self) -> Spec:
        there = self.source.spec
        channels = there.shape[0]
        plain = replace(there, mean=(0.0,) * channels, std=(1.0,) * channels)
        if self.side is None:
            return plain
        words = f"{there.split}; each somewhere on a black square of {self.side} pixels"
        return replace(plain, shape=(channels, self.side, self.side), split=words)

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        self.source.setup(stage)
        self.splits = dict(self.source.splits)
        if self.side is not None:
            self.splits = {name: (self._placed(images, name), y) for name, (images, y) in self.splits.items()}
            self._settle(self.declared())
        self.clean_labels = self.source.clean_labels

    def _placed(self, images: Tensor, name: str) -> Tensor:
        assert self.side is not None
        source = generator("where an image stands", self.seed, ("train", "val", "test").index(name))
        room = torch.tensor([self.side - length + 1 for length in images.shape[-2:]])
        corners = (torch.rand(len(images), 2, generator=source) * room).long()
        return place(images, self.side, corners)
