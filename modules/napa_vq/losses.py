"""The losses of NAPA-VQ (arXiv 2308.09297) on features f (B, D) and coding vectors V (M, D)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.common.distributed import summed

SPREAD = 0.001  # of the weights of neighbours


def distances(x: Tensor, v: Tensor) -> Tensor:
    """Euclidean, (B, D), (M, D) -> (B, M), without the cancellation of the product form; gradient 0 at distance 0."""
    return torch.cdist(x, v, compute_mode="donot_use_mm_for_euclid_dist")


def classification_loss(d: Tensor, y: Tensor, temperature: float) -> Tensor:
    """L_DCE and L_PA: cross-entropy of -d / temperature with the labels, mean over the batch. d (B, M), y (B,)."""
    return F.cross_entropy(-d / temperature, y)


def neighbour_loss(d: Tensor, y: Tensor, edges: Tensor) -> Tensor:
    """L_NA, mean over the batch. d (B, M) distances, y (B,) labels, edges (M, M): those > 0 are neighbours."""
    squared = d.square()
    pull = squared.gather(1, y[:, None]).squeeze(1)  # (B,)

    neighbour = (edges[y] > 0).scatter(1, y[:, None], False) & (squared > 0)  # (B, M)
    weights = torch.where(neighbour, (-SPREAD * squared.detach()).exp(), 0.0)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)  # no neighbour: all 0
    push = (weights * squared).sum(1)  # (B,)

    return F.relu(pull - push).mean()


def distillation_loss(new: Tensor, old: Tensor) -> Tensor:
    """L_KD: the Frobenius norm of the difference over the global batch; its gradient where both are equal is 0, not
    NaN."""
    square = summed((new - old).square().sum())
    return torch.where(square > 0, square, 1.0).sqrt() * (square > 0)
