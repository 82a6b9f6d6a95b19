"""Another in-memory dataset at another size."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.base import DataError, Spec, hashed
from datamodules.common.views import View


class Resized(View, ArrayData):
    """The images of `source`, stretched or shrunk to side x side pixels (antialiased, rounded).

    Args:
        source: the dataset; its splits, labels, seed and augmentation are used, its batch size is not.
        batch_size: the global batch, over all devices.
        side: of the square images served.
        interpolation: bicubic or bilinear.
        centred: a mean and standard deviation of a half, so that 0 to 1 are served as -1 to 1; else the source's.
        generated: see DataModule.
    Raises:
        DataError: another interpolation, or what the source raises.
    """

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        side: int,
        interpolation: str = "bicubic",
        centred: bool = False,
        generated: bool = False,
    ) -> None:
        if interpolation not in ("bicubic", "bilinear"):
            raise DataError(f"interpolation={interpolation!r}: expected bicubic or bilinear")
        super().__init__(source, batch_size, generated=generated, augment=source.augment)
        self.peak = source.peak
        self.side = side
        self.interpolation = interpolation
        self.centred = centred

    @property
    def spec(self) -> Spec:
        return self._spec or self._resize_spec(self.source.spec)

    def _resize_spec(self, spec: Spec) -> Spec:
        split = f"{spec.split}; resized from {spec.shape[-1]} to {self.side} pixels"
        if self.centred:
            spec = replace(spec, mean=(0.5,) * spec.shape[0], std=(0.5,) * spec.shape[0])
        return replace(spec, shape=(spec.shape[0], self.side, self.side), split=split)

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        self.source.setup(stage)
        self.splits = {name: self._resize_split(split) for name, split in self.source.splits.items()}
        self.clean_labels = self.source.clean_labels
        spec = self._resize_spec(self.source.spec)
        identity = spec.identity and hashed(*(tensor for split in self.splits.values() for tensor in split))
        self._spec = replace(spec, identity=identity)

    def _resize_split(self, split: Split) -> Split:
        images, labels = split
        if not len(images):
            return images.new_empty(0, images.shape[1], self.side, self.side), labels
        return torch.cat([self._resize(chunk) for chunk in images.split(1000)]), labels

    def _resize(self, images: Tensor) -> Tensor:
        size = (self.side, self.side)
        resized = F.interpolate(images.float(), size, mode=self.interpolation, antialias=True, align_corners=False)
        return resized.round().clamp(0, self.peak).to(torch.uint8)
