"""Rotated classes, and the prototypes that stand for those whose images are gone (NAPA-VQ, arXiv 2308.09297)."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.common.distributed import summed

ROTATIONS = 4


def rotate(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Each square image (B, C, S, S) turned by 0, 90, 180 and 270 degrees, and the labels 4 y + k: 4 B of each."""
    images = torch.stack([torch.rot90(x, k, (2, 3)) for k in range(ROTATIONS)], 1).flatten(0, 1)
    labels = (ROTATIONS * y[:, None] + torch.arange(ROTATIONS, device=y.device)).flatten()
    return images, labels


class FeatureMoments:
    """Mean and variance of features by class, over all processes, in double precision.

    Args:
        classes: K.
        features: D.
    """

    def __init__(self, classes: int, features: int, device: torch.device) -> None:
        self.features = features
        self.sums = torch.zeros(classes, 2 * features + 1, dtype=torch.float64, device=device)  # f, f^2 and the count

    def update(self, f: Tensor, y: Tensor) -> None:
        """Add features (B, D) of the classes y (B,)."""
        f = f.double()
        self.sums.index_add_(0, y, torch.cat([f, f.square(), torch.ones_like(f[:, :1])], 1))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance, each (K, D); 0 for a class without images."""
        sums = summed(self.sums)
        count = sums[:, -1:].clamp(min=1)
        mean = sums[:, : self.features] / count
        squares = sums[:, self.features : -1]
        variance = (squares - count * mean.square()) / (count - 1).clamp(min=1)
        return mean, variance


def draw_mixed_prototypes(prototypes: Tensor, edges: Tensor, old: int, count: int) -> tuple[Tensor, Tensor]:
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


def draw_noisy_prototypes(prototypes: Tensor, radius: Tensor, old: int, count: int) -> tuple[Tensor, Tensor]:
    """PASS: old classes' prototypes of rotation 0 with Gaussian noise. Shapes as in draw_mixed_prototypes."""
    c = ROTATIONS * torch.randint(old, (count,), device=prototypes.device)
    noise = torch.randn(count, prototypes.shape[1], device=prototypes.device)
    return prototypes[c] + radius * noise, c
