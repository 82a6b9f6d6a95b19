"""Training on batches of few distinct rows: each is computed once and counts as often as it stands there."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.common.adversarial import AdversarialClassifier


class Rows(NamedTuple):
    """A batch without repetitions.

    Attributes:
        x: (R, C, H, W) distinct inputs.
        y: (R,) their labels.
        times: (R,) how often each pair stands in the batch.
    """

    x: Tensor
    y: Tensor
    times: Tensor


def distinct_rows(x: Tensor, y: Tensor) -> Rows:
    """The pairs of a batch, each once.

    Args:
        x: (B, C, H, W) inputs.
        y: (B,) labels; equal inputs of two labels are two rows.
    """
    pairs = torch.cat([x.flatten(1), y[:, None].to(x.dtype)], dim=1)  # (B, d + 1)
    rows, times = torch.unique(pairs, dim=0, return_counts=True)
    return Rows(rows[:, :-1].reshape(-1, *x.shape[1:]), rows[:, -1].to(y.dtype), times)


class DistinctClassifier(AdversarialClassifier):
    """AdversarialClassifier, for inputs that repeat: x = y e_j has 20 values in 10,000 vectors.

    The attack begins at the input and the network has no layer that depends on a batch or on chance, so that equal
    rows are moved alike and the mean over rows, weighted by their counts, is the mean over the batch.
    """

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        rows = distinct_rows(batch.x, batch.y)
        x = rows.x if self.attack is None else self.moved(self.attack, rows)

        logits = self(x)  # (R, classes)
        share = rows.times / rows.times.sum()
        loss = (share * F.cross_entropy(logits, rows.y, reduction="none")).sum()

        right = (logits.argmax(-1) == rows.y).float()
        self.track(len(batch.y), loss=loss, top1=100 * (share * right).sum())
        return loss
