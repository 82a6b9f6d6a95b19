"""What ProtoPNet is trained with (arXiv 1806.10574), as functions of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from modules.common.prototypes import own_and_other


def cluster_and_separation(distances: Tensor, owner: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """How near the nearest own prototype is, and how near the nearest one of another class; means over the batch.

        L_clst = mean_x min_{j of y} d_j(x),    L_sep = -mean_x min_{j not of y} d_j(x)

    Args:
        distances: d (B, P), squared, the smallest of all positions.
        owner: (P,).
        y: (B,).
    Returns:
        L_clst, L_sep.
    """
    own, other = own_and_other(-distances, owner, y)
    return -own.mean(), other.mean()


@dataclass(frozen=True)
class LossWeights:
    """Weights of cross-entropy, L_clst, L_sep and the L1 norm of the wrong classes' part of W."""

    ce: float = 1.0
    cluster: float = 0.8
    separation: float = 0.08
    l1: float = 1e-4

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        weighted = [getattr(self, name) * term for name, term in terms.items()]
        return sum(weighted[1:], weighted[0])
