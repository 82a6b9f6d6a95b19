"""Which channels of a network are dead."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import MaxMetric


class Peaks(MaxMetric):
    """The largest pooled activation of each channel, over an epoch and all processes."""

    def __init__(self, channels: int) -> None:
        super().__init__(nan_strategy="disable")
        self.add_state("max_value", torch.zeros(channels), dist_reduce_fx="max")

    def update(self, pooled: Tensor) -> None:  # type: ignore[override]
        """(B, C); what is not finite counts as silent."""
        self.max_value = torch.maximum(self.max_value, pooled.float().nan_to_num(0.0, 0.0, 0.0).amax(0))

    def dead(self) -> Tensor:
        """Channels that never rose above 0, percent; starts anew."""
        share = 100 * (self.compute() <= 0).float().mean()
        self.reset()
        return share
