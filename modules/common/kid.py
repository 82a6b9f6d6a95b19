"""Kernel distance between two sets of features, KID on those of Inception-v3 (Binkowski et al. 2018, arXiv 1801.01401).

Like the Frechet distance it takes features, never images. Its estimate has no bias at any number of images, so that it
may be compared between tests of different sizes and may be negative where the sets are alike; the Frechet distance is
the one that papers report.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROWS = 1024  # of a kernel matrix that is held at a time


def kernel_distance(one: Tensor, other: Tensor) -> Tensor:
    """The unbiased estimate of MMD^2 with k(x, y) = (x y / d + 1)^3 (section 4) between features (n, d) and (m, d).

    Of all pairs, while the paper averages over subsets of 1,000: the same expectation, less variance. A scalar in
    float64; NaN below two rows on either side.
    """
    n, m = len(one), len(other)
    if min(n, m) < 2:
        return torch.full((), math.nan, dtype=torch.float64)
    x, y = one.double(), other.double()
    within = _kernel_sum(x, x, own=False) / (n * (n - 1)) + _kernel_sum(y, y, own=False) / (m * (m - 1))
    return within - 2 * _kernel_sum(x, y) / (n * m)


def _kernel_sum(x: Tensor, y: Tensor, own: bool = True) -> Tensor:
    """Sum of k over all pairs; without `own`, x is y and no row is paired with itself."""
    d = x.shape[1]
    total = torch.stack([(rows @ y.T / d + 1).pow(3).sum() for rows in x.split(ROWS)]).sum()
    return total if own else total - (x.square().sum(1) / d + 1).pow(3).sum()
