"""Coding vectors, their graph of neighbours, and prototypes (NAPA-VQ, arXiv 2308.09297)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.common.distributed import summed

ROTATIONS = 4
DECAY = 0.9  # of an edge's strength whenever its row wins without it
WEAKEST = DECAY**10  # an edge weaker than this is removed
SPREAD = 0.001  # of the weights of neighbours


def rotated(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Each square image (B, C, S, S) turned by 0, 90, 180 and 270 degrees, and the labels 4 y + k: 4 B of each."""
    images = torch.stack([torch.rot90(x, k, (2, 3)) for k in range(ROTATIONS)], 1).flatten(0, 1)
    return images, (ROTATIONS * y[:, None] + torch.arange(ROTATIONS, device=y.device)).flatten()


def distances(x: Tensor, v: Tensor) -> Tensor:
    """Euclidean, (B, D), (M, D) -> (B, M), without the cancellation of the product form; gradient 0 at distance 0."""
    return torch.cdist(x, v, compute_mode="donot_use_mm_for_euclid_dist")


def grown(edges: Tensor, d: Tensor, neighbours: int) -> Tensor:
    """The graph after a batch: edges to each winner's nearest are renewed, its others fade.

    Args:
        edges: E (M, M), strengths in [0, 1] with ones on the diagonal.
        d: (B, M) distances to the coding vectors; the winner of a sample is the nearest.
        neighbours: K, how many of the nearest are joined to the winner, itself included.
    """
    m = len(edges)
    nearest = d.detach().argsort(dim=1, stable=True)[:, :neighbours]  # (B, K), the winner first; ties go to the older
    hits = torch.bincount((nearest[:, :1] * m + nearest).flatten(), minlength=m * m).view(m, m).to(edges)
    hits = summed(hits)  # [s, n]: how often n was near when s won
    wins = hits.diagonal()[:, None]  # a winner is always near itself
    strengths = torch.maximum(edges, (hits > 0).to(edges)) * DECAY ** (wins - hits).clamp(min=0)
    return strengths * (strengths >= WEAKEST)


def neighbour_loss(d: Tensor, y: Tensor, edges: Tensor) -> Tensor:
    """L_NA, mean over the batch. d (B, M) distances, y (B,) labels, edges (M, M): those > 0 are neighbours."""
    squared = d.square()
    pull = squared.gather(1, y[:, None]).squeeze(1)  # (B,)
    neighbour = (edges[y] > 0).scatter(1, y[:, None], False) & (squared > 0)  # (B, M)
    weights = torch.where(neighbour, (-SPREAD * squared.detach()).exp(), 0.0)
    weights = weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)  # no neighbour: all 0
    return F.relu(pull - (weights * squared).sum(1)).mean()


def frobenius(a: Tensor, b: Tensor) -> Tensor:
    """L_KD: the norm of the difference over the global batch; its gradient where both are equal is 0, not NaN."""
    square = summed((a - b).square().sum())
    return torch.where(square > 0, square, 1.0).sqrt() * (square > 0)


def mixed_prototypes(prototypes: Tensor, edges: Tensor, old: int, count: int) -> tuple[Tensor, Tensor]:
    """NA-PA: old classes' prototypes of rotation 0, each drawn towards a random neighbour.

    Args:
        prototypes: (M, D).
        edges: E (M, M).
        old: number of old classes, without rotations.
        count: how many to draw.
    Returns: (count, D) and labels (count,), multiples of 4.
    """
    c = ROTATIONS * torch.randint(old, (count,), device=edges.device)
    n = torch.multinomial((edges[c] > 0).float(), 1).squeeze(1)  # c itself is among them
    g = 0.5 + 0.5 * torch.rand(count, 1, device=edges.device)
    return g * prototypes[c] + (1 - g) * prototypes[n], c


def noisy_prototypes(prototypes: Tensor, radius: Tensor, old: int, count: int) -> tuple[Tensor, Tensor]:
    """PASS: old classes' prototypes of rotation 0 with Gaussian noise. Shapes as in mixed_prototypes."""
    c = ROTATIONS * torch.randint(old, (count,), device=prototypes.device)
    noise = torch.randn(count, prototypes.shape[1], device=prototypes.device)
    return prototypes[c] + radius * noise, c
