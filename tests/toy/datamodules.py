"""Digits with the labels that another stage gives them. Copied to datamodules/toy.py by the tests."""

from __future__ import annotations

from typing import Any

import torch

from datamodules.common.base import Fed
from datamodules.common.digits import Digits


class Relabelled(Digits):
    """The training labels are those of `labels`, a finished stage's artifact of that name."""

    def __init__(self, batch_size: int, labels: Fed, **options: Any) -> None:
        super().__init__(batch_size, **options)
        self.labels = labels

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        super().setup(stage)
        if not self.generated:
            self.splits["train"] = (self.splits["train"][0], torch.tensor(self.labels.arrays["labels"]))
