"""Accuracy, loss, and precision, recall and F1 for either class as the positive one, exact over several processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

FAKE = 1  # label; a real picture is 0


def of_counts(table: Tensor) -> dict[str, Tensor]:
    """Of a table [[fakes called fake, fakes called real], [reals called fake, reals called real]], in percent.

    acc; precision_fake, recall_fake, f1_fake with generated pictures as positive, precision_real, ... with real ones.
    0 where a denominator is.
    """
    table = table.double()
    values = {"acc": 100 * table.diagonal().sum() / table.sum().clamp(min=1)}
    for number, name in enumerate(("fake", "real")):
        right = table[number, number]
        called, there = table[:, number].sum(), table[number].sum()
        values[f"precision_{name}"] = 100 * right / called.clamp(min=1)
        values[f"recall_{name}"] = 100 * right / there.clamp(min=1)
        values[f"f1_{name}"] = 200 * right / (called + there).clamp(min=1)
    return values


class BinaryScores(Metric):
    """`compute` gives what of_counts gives, loss (mean binary cross-entropy, nats) and n."""

    full_state_update = False
    table: Tensor
    loss: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("table", torch.zeros(2, 2, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("loss", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, y: Tensor) -> None:
        """Log odds of "generated" (B,) and labels (B,); a probability of exactly 0.5 says "real"."""
        logits = logits.double()
        called_real = (logits <= 0).long()
        is_real = (y != FAKE).long()
        self.table += torch.bincount(2 * is_real + called_real, minlength=4).view(2, 2)
        self.loss += F.binary_cross_entropy_with_logits(logits, (y == FAKE).double(), reduction="sum")

    def compute(self) -> dict[str, Tensor]:
        n = self.table.sum()
        values = {**of_counts(self.table), "loss": self.loss / n.clamp(min=1), "n": n}
        return {name: value.float() for name, value in values.items()}
