"""Another in-memory dataset at another size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.base import Spec, hashed


class Resized(ArrayData):
    """The images of `source`, stretched to side x side pixels (bicubic, antialiased, rounded).

    Args:
        source: the dataset; its splits, labels, seed and augmentation are used, its batch size is not.
        batch_size: the global batch, over all devices.
        side: of the square images served.
        generated: see DataModule.
    Raises:
        DataError: what the source raises.
    """

    def __init__(self, source: ArrayData, batch_size: int, side: int, generated: bool = False) -> None:
        super().__init__(batch_size, augment=source.augment, seed=source.seed, generated=generated)
        self.source, self.peak, self.side = source, source.peak, side
        source.generated = source.generated or generated

    @property
    def root(self) -> Path | None:
        return getattr(self.source, "root", None)

    def available(self) -> str:
        return self.source.available()

    def prepare_data(self) -> None:
        self.source.prepare_data()

    @property
    def spec(self) -> Spec:
        return self._spec or self._described(self.source.spec)

    def _described(self, there: Spec) -> Spec:
        words = f"{there.split}; resized from {there.shape[-1]} to {self.side} pixels"
        return replace(there, shape=(there.shape[0], self.side, self.side), split=words)

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        self.source.setup(stage)
        self.splits = {name: self._resized(split) for name, split in self.source.splits.items()}
        self.clean_labels = self.source.clean_labels
        there = self._described(self.source.spec)
        identity = there.identity and hashed(*(t for split in self.splits.values() for t in split))
        self._spec = replace(there, identity=identity)

    def _resized(self, split: Split) -> Split:
        images, labels = split
        if not len(images):
            return images.new_empty(0, images.shape[1], self.side, self.side), labels
        parts = [self._stretched(part) for part in images.split(1000)]
        return torch.cat(parts), labels

    def _stretched(self, images: Tensor) -> Tensor:
        size = (self.side, self.side)
        large = F.interpolate(images.float(), size, mode="bicubic", antialias=True, align_corners=False)
        return large.round().clamp(0, self.peak).to(torch.uint8)
