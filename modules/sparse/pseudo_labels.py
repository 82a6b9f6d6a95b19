"""Pseudo-labels by two networks and their history: confidence, weighted vote, moving average of each image, quantile.

c_m    = 1 - H(p_m) / ln K,                     p_m = softmax(l_m / T)
p_w    = sum_m c_m p_m / sum_m c_m
p_ens  = a p_w + (1 - a) p_ema                  p_w where the image was never seen
p_ema <- beta p_ema + (1 - beta) p_ens          kept for each image
kept:    max p_ens above the rho-quantile of the batch
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.common.precision import at_least_single


@dataclass(frozen=True)
class Voting:
    """How images get pseudo-labels; the defaults are the paper's Table 2.

    Args:
        temperature: T.
        present: a, the weight of what the networks say now; 1 forgets the past.
        decay: beta of the moving average.
        quantile: rho; the images of a batch whose confidence lies above it are kept.
        normalised: false divides the vote by the number of networks instead of by their confidences, as coded.
        selected: false keeps all images wherever one would be kept, as coded.
        training_mode: asks the networks in training mode, as coded: batch statistics and dropout enter.
    Raises:
        ValueError: a number outside its range.
    """

    temperature: float = 2.0
    present: float = 0.6
    decay: float = 0.99
    quantile: float = 0.75
    normalised: bool = True
    selected: bool = True
    training_mode: bool = False

    def __post_init__(self) -> None:
        for name in ("present", "decay", "quantile"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a number from 0 to 1")
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature}: expected a number above 0")


def confidence(p: Tensor) -> Tensor:
    """1 - H(p) / ln K of probabilities (..., K): 0 where all classes are equal, 1 where one is sure."""
    entropy = -torch.xlogy(p, p).sum(-1)
    return (1 - entropy / math.log(p.shape[-1])).clamp(0, 1)


def vote(all_logits: Sequence[Tensor], temperature: float, normalised: bool = True) -> Tensor:
    """p_w (B, K) of several networks' logits (B, K); the plain mean where none of them is confident at all."""
    p = torch.stack([(at_least_single(logits) / temperature).softmax(-1) for logits in all_logits])  # (M, B, K)
    weights = confidence(p)[..., None]  # (M, B, 1)
    weighted = (weights * p).sum(0)
    if not normalised:
        return weighted / len(p)
    sure = weights.sum(0)  # (B, 1)
    return torch.where(sure > 1e-6, weighted / sure.clamp(min=1e-6), p.mean(0))


def above_quantile(p: Tensor, quantile: float) -> Tensor:
    """(B,): which images' largest probability lies above the quantile of the batch; all at quantile 0. (B, K)."""
    largest = p.amax(1)
    if quantile == 0:
        return torch.ones_like(largest, dtype=torch.bool)
    return largest > torch.quantile(largest, quantile)


class History:
    """p_ema of every image, by its row, and which images have one.

    Args:
        images: how many rows there are.
        classes: K.
    """

    def __init__(self, images: int, classes: int) -> None:
        self.average = torch.zeros(images, classes)
        self.seen = torch.zeros(images, dtype=torch.bool)

    def follow(self, rows: Tensor, p_w: Tensor, rules: Voting) -> Tensor:
        """p_ens (B, K) of what the networks say of these rows now, (B,), (B, K), which then goes into the average."""
        if self.average.device != p_w.device or self.average.dtype != p_w.dtype:
            self.average, self.seen = self.average.to(p_w), self.seen.to(p_w.device)
        past, seen = self.average[rows], self.seen[rows, None]
        p_ens = torch.where(seen, rules.present * p_w + (1 - rules.present) * past, p_w)
        self.average[rows] = torch.where(seen, rules.decay * past + (1 - rules.decay) * p_ens, p_ens)
        self.seen[rows] = True
        return p_ens

    def state(self) -> dict[str, Tensor]:
        return {"average": self.average, "seen": self.seen}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.average, self.seen = state["average"], state["seen"]
