"""Pixels as they are, in [0, 1]: what is masked with 0 is then black, as an empty pixel is."""

from __future__ import annotations

from dataclasses import replace

from datamodules.common.arrays import ArrayData
from datamodules.common.base import Spec
from datamodules.common.views import View


class UnitPixels(View, ArrayData):
    """The source's images without mean and std: the network sees pixels in [0, 1].

    Args:
        source: images in memory; its splits, seed and augmentation are used, its batch size is not.
        batch_size: the global batch, over all devices.
        generated: see DataModule.
    """

    def __init__(self, source: ArrayData, batch_size: int, generated: bool = False) -> None:
        super().__init__(source, batch_size, generated=generated, augment=source.augment)
        self.peak = source.peak

    @property
    def spec(self) -> Spec:
        there = self.source.spec
        channels = there.shape[0]
        return replace(there, mean=(0.0,) * channels, std=(1.0,) * channels)

    def declared(self) -> Spec:
        return self.spec

    def setup(self, stage: str | None = None) -> None:
        if not self.splits:
            self.source.setup(stage)
            self.splits = dict(self.source.splits)
            self.clean_labels = self.source.clean_labels
