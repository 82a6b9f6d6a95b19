"""Means over images, exact over several processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class Means(Metric):
    """Of several values of each image at once; `compute` gives each name's mean and `n`, the number of images.

    Args:
        names: of the values.
    """

    full_state_update = False
    totals: Tensor
    count: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.add_state("totals", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Every name's (B,)."""
        self.totals += torch.stack([values[name].double().sum() for name in self.names])
        self.count += len(values[self.names[0]])

    def compute(self) -> dict[str, Tensor]:
        means = (self.totals / self.count.clamp(min=1)).float()
        return {**dict(zip(self.names, means, strict=True)), "n": self.count.float()}
