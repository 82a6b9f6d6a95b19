"""Frechet distance between two sets of features (Heusel et al. 2017).

The metric takes features, never images, so that the extractor stays out of the metric, the optimiser and the
checkpoint. `fid` without a suffix means the standard Inception-v3; any other extractor is in the name. All states are
sums: several processes measure what one would.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric


def frechet_distance(mean_1: Tensor, cov_1: Tensor, mean_2: Tensor, cov_2: Tensor) -> Tensor:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) for means (d,) and covariances (d, d), float64.

    The trace of the root is the sum of the roots of the eigenvalues of A^T S2 A with S1 = A A^T, a symmetric matrix
    with the eigenvalues of S1 S2: two symmetric decompositions, no complex numbers, and nothing special to do when a
    covariance is singular.
    """
    values, vectors = torch.linalg.eigh(cov_1)
    a = vectors * values.clamp(min=0).sqrt()
    product = torch.linalg.eigvalsh(a.T @ cov_2 @ a).clamp(min=0)
    return (mean_1 - mean_2).square().sum() + cov_1.trace() + cov_2.trace() - 2 * product.sqrt().sum()


class FrechetDistance(Metric):
    """The Frechet distance between Gaussians fitted to the features of real and of generated images.

    With fewer images than dimensions both covariances are rank-deficient: the value exists, is biased upwards, and can
    be compared only at equal numbers. NaN below two images on either side.

    Args:
        features: dimensions d.
    """

    full_state_update = False
    higher_is_better = False

    def __init__(self, features: int) -> None:
        super().__init__()
        for side in ("real", "fake"):
            self.add_state(f"{side}_sum", torch.zeros(features, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{side}_outer", torch.zeros(features, features, dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state(f"{side}_n", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, features: Tensor, real: bool) -> None:
        """features (B, d) of real or generated images."""
        side, x = "real" if real else "fake", features.double()
        getattr(self, f"{side}_sum").add_(x.sum(0))
        getattr(self, f"{side}_outer").add_(x.T @ x)
        getattr(self, f"{side}_n").add_(len(x))

    def compute(self) -> Tensor:
        (mean_1, cov_1), (mean_2, cov_2) = self._moments("real"), self._moments("fake")
        if not (cov_1.isfinite().all() and cov_2.isfinite().all()):
            return torch.full_like(mean_1[0], math.nan)
        return frechet_distance(mean_1, cov_1, mean_2, cov_2)

    def _moments(self, side: str) -> tuple[Tensor, Tensor]:
        n, total = getattr(self, f"{side}_n"), getattr(self, f"{side}_sum")
        mean = total / n
        return mean, (getattr(self, f"{side}_outer") - torch.outer(total, mean)) / (n - 1)
