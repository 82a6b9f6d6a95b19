"""Images in memory with a box each, some of them to tune thresholds on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData
from datamodules.common.base import DataError
from datamodules.common.loader import Columns, Images, Loader
from datamodules.common.views import View


class BoxedImages(View, ArrayData):
    """A view whose subclass fills `splits` and `boxes`, split -> (N, 4).

    Training and validation batches are x, y. Test batches have further columns: boxes (B, 1, 4), x1, y1, x2, y2 in
    pixels, ends exclusive; row (B,), the image's number in its split; in_test (B,), 1 for test images and 0 for
    validation images, which are tested on too where `tuning` is asked for.

    Args:
        source: the data underneath; its batch size is not used.
        batch_size: the global batch, over all devices.
        tuning: the test goes through the validation images first: thresholds are chosen on them.
        generated: see DataModule.
    Raises:
        DataError: no validation images to tune on.
    """

    def __init__(self, source: Any, batch_size: int, tuning: bool = False, generated: bool = False) -> None:
        super().__init__(source, batch_size, generated=generated, augment=source.augment)
        if tuning and not source.spec.sizes["val"]:
            raise DataError("tuning=true: expected validation images; the source has none")
        self.tuning = tuning
        self.boxes: dict[str, Tensor] = {}

    @property
    def tested(self) -> tuple[str, ...]:
        """Splits that the test goes through."""
        return ("val", "test") if self.tuning else ("test",)

    @property
    def sizes(self) -> dict[str, int]:
        there = self.source.spec.sizes
        return {**there, "test": sum(there[name] for name in self.tested)}

    def test_dataloader(self) -> Loader:
        images, labels = (torch.cat(parts) for parts in zip(*(self.splits[name] for name in self.tested), strict=True))
        lengths = [len(self.splits[name][1]) for name in self.tested]
        columns = Columns(
            self.device,
            x=images,
            y=labels,
            boxes=torch.cat([self.boxes[name] for name in self.tested])[:, None],
            row=torch.cat([torch.arange(length) for length in lengths]),
            in_test=torch.cat([torch.full((n,), int(s == "test")) for n, s in zip(lengths, self.tested, strict=True)]),
        )
        return Loader(self.batches(len(labels), shuffle=False), Images(columns, self.spec, self.peak))
