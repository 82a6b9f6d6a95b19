"""Inception Score from logits (Salimans et al. 2016)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class InceptionScore(Metric):
    """exp E_x KL(p(y|x) || p(y)), the mean over `splits` parts of the images (10 in the literature).

    An image belongs to part (its number) mod splits, wherever it is generated. The score grows with the size of a part;
    compare it at equal numbers and splits.

    Args:
        classes: C.
        splits: parts.
    """

    full_state_update = False
    higher_is_better = True
    p: Tensor
    p_log_p: Tensor
    n: Tensor

    def __init__(self, classes: int, splits: int = 10) -> None:
        super().__init__()
        self.splits = splits
        self.add_state("p", torch.zeros(splits, classes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("p_log_p", torch.zeros(splits, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n", torch.zeros(splits, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, numbers: Tensor) -> None:
        """logits (B, C) of generated images; numbers (B,) says which images of all they are."""
        part, log_p = numbers % self.splits, logits.double().log_softmax(-1)
        p = log_p.exp()
        self.p.index_add_(0, part, p)
        self.p_log_p.index_add_(0, part, (p * log_p).sum(-1))
        self.n.index_add_(0, part, torch.ones_like(p[:, 0]))

    def compute(self) -> Tensor:
        used = self.n > 0
        n, q = self.n[used], self.p[used] / self.n[used, None]
        return (self.p_log_p[used] / n - torch.xlogy(q, q).sum(-1)).exp().mean()
