"""In-memory images of which few have a label."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.arrays import ArrayData
from datamodules.common.base import DataError, Spec
from datamodules.common.views import View

UNLABELLED = -1


def first_of_class(labels: Tensor, per_class: int) -> Tensor:
    """True for the first `per_class` images of each class. (N,) -> (N,) boolean."""
    seen = F.one_hot(labels).cumsum(0)  # (N, classes): how many of each class up to here
    return seen.gather(1, labels[:, None]).squeeze(1) <= per_class


class PartlyLabelled(View, ArrayData):
    """All training images of `source`; those beyond the first `per_class` of each class have label -1.

    The labelled ones are those of a Subset with the same source and `per_class`. Val and test are the source's.

    Args:
        source: the dataset; its splits, seed and augmentation are used, its batch size is not.
        batch_size: the global batch, over all devices.
        per_class: training images of each class that keep their label.
        generated: see DataModule.
    Raises:
        DataError: a class has fewer training images.
    """

    def __init__(self, source: Any, batch_size: int, per_class: int, generated: bool = False) -> None:
        super().__init__(source, batch_size, generated=generated, augment=source.augment)
        self.peak, self.per_class = source.peak, per_class

    @property
    def spec(self) -> Spec:
        return self._spec or self.declared()

    def declared(self) -> Spec:
        there = self.source.spec
        return replace(there, split=there.split + f"; {self.per_class} training images per class have a label")

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        if self.generated:
            self._stand_in(self.declared())
        else:
            self.source.setup(stage)
            self.splits = dict(self.source.splits)
            self.splits["train"] = self._hidden(*self.source.splits["train"])
            self._settle(self.declared())

    def _hidden(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The training split without the labels that are not to be used."""
        counts = labels.bincount(minlength=len(self.declared().classes))
        if int(counts.min()) < self.per_class:
            raise DataError(
                f"{self.declared().name} has {int(counts.min())} training images of class {int(counts.argmin())}; "
                f"per_class asks for {self.per_class}"
            )
        return images, torch.where(first_of_class(labels, self.per_class), labels, UNLABELLED)
