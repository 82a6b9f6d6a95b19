"""Density and coverage (Naeem et al. 2020, arXiv 2002.09797) and distances within classes, from features.

With B(r) the ball around a real sample r up to its k-th nearest other real sample:

    density  = 1 / (k M) sum over generated f of the number of balls that hold f          may exceed 1
    coverage = share of the real samples whose ball holds a generated one                 in [0, 1]
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1024  # rows of a distance matrix at a time


def distances(a: Tensor, b: Tensor) -> Tensor:
    """(N, d), (M, d) -> (N, M); by differences: the faster matrix product is off by 1e-3 where distances are small."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def radii(real: Tensor, k: int) -> Tensor:
    """Distance of each real sample (N, d) to its k-th nearest other one, (N,).

    Raises:
        ValueError: there are no k others.
    """
    if not 1 <= k < len(real):
        raise ValueError(f"k={k}: expected 1 to {len(real) - 1}, of {len(real)} real samples")
    # a sample is its own nearest, at distance 0
    return torch.cat([distances(part, real).kthvalue(k + 1, dim=1).values for part in real.split(CHUNK)])


def density_and_coverage(real: Tensor, fake: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
    """Density and coverage of generated features (M, d) among real ones (N, d)."""
    reach = radii(real, k)
    held = fake.new_zeros(())
    covered = []
    for part, radius in zip(real.split(CHUNK), reach.split(CHUNK), strict=True):
        inside = distances(part, fake) < radius[:, None]  # (n, M)
        held = held + inside.sum()
        covered.append(inside.any(1))
    return held / (k * len(fake)), torch.cat(covered).to(held).mean()


def within_class_distance(features: Tensor, labels: Tensor) -> Tensor:
    """Mean distance of two different samples of a class, in the mean over classes that have two.

    Args:
        features: (N, d).
        labels: (N,).
    """
    means = []
    for label in labels.unique():
        own = features[labels == label]
        if len(own) > 1:
            means.append(torch.pdist(own).mean())
    return torch.stack(means).mean() if means else features.new_tensor(float("nan"))
