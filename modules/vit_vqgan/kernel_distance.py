"""The kernel distance as a metric."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from modules.common.kid import kernel_distance


class KernelDistance(Metric):
    """The kernel distance between the features of real and of generated images. Keeps the features of both."""

    full_state_update = False
    higher_is_better = False
    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        for side in ("real", "fake"):
            self.add_state(side, [], dist_reduce_fx="cat")

    def update(self, features: Tensor, real: bool) -> None:
        """features (B, d) of real or generated images."""
        (self.real if real else self.fake).append(features)

    def compute(self) -> Tensor:
        if not len(self.real) or not len(self.fake):
            return torch.full((), math.nan, dtype=torch.float64)
        return kernel_distance(dim_zero_cat(self.real), dim_zero_cat(self.fake))
