"""What ST-ProtoPNet's branches are trained with (arXiv 2301.04011), as functions of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modules.common.prototypes import own_and_other


def cluster_and_separation(cosines: Tensor, owner: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """How similar the most similar own prototype is, and the most similar one of another class; means over the batch.

        L_clst = -mean_x max(0, max_{j of y} s_j(x)),    L_sep = mean_x max(0, max_{j not of y} s_j(x))

    The released code takes the maximum of similarities that are masked by 0: hence max(0, .), and no gradient where all
    of them are negative.

    Args:
        cosines: s (B, P), the largest of all positions.
        owner: (P,).
        y: (B,).
    Returns:
        L_clst, L_sep.
    """
    own, other = own_and_other(cosines, owner, y)
    return -own.relu().mean(), other.relu().mean()


def orthogonality(prototypes: Tensor) -> Tensor:
    """sum_c |P_c P_c^T - I|_1, entry by entry and over all classes: (C, M, D) -> ()."""
    gram = prototypes @ prototypes.mT  # (C, M, M)
    return (gram - torch.eye(gram.shape[-1]).to(gram)).abs().sum()


def between_classes(prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest dot product of the prototypes of two classes, in the mean over pairs of classes.

    Args:
        prototypes: (C, M, D).
    Returns:
        mean_{c != c'} min_{m, m'} p_cm . p_c'm', and the same of max.
    """
    classes, per_class, _ = prototypes.shape
    flat = prototypes.flatten(0, 1)
    dots = (flat @ flat.T).view(classes, per_class, classes, per_class)
    apart = ~torch.eye(classes, dtype=torch.bool, device=dots.device)
    return dots.amin((1, 3))[apart].mean(), dots.amax((1, 3))[apart].mean()


@dataclass(frozen=True)
class BranchLoss:
    """A branch's weights of cross-entropy, L_clst, L_sep, L_orth, L_cls, L_dsc and the L1 norm of W's wrong part.

    closeness weighs L_cls = -mean_{c != c'} min_{m, m'} p_cm . p_c'm': the least similar prototypes of two classes are
    drawn together. discrimination weighs L_dsc = mean_{c != c'} max_{m, m'} p_cm . p_c'm': the most similar ones are
    driven apart.
    """

    ce: float = 1.0
    cluster: float = 0.8
    separation: float = 0.08
    orthogonality: float = 1e-3
    closeness: float = 0.0
    discrimination: float = 0.0
    l1: float = 1e-4

    def of_prototypes(self, prototypes: Tensor) -> dict[str, Tensor]:
        """The terms that depend on the prototypes (C, M, D) alone, in fp32."""
        with torch.autocast(prototypes.device.type, enabled=False):
            smallest, largest = between_classes(prototypes.float())
            return {
                "orthogonality": orthogonality(prototypes.float()),
                "closeness": -smallest,
                "discrimination": largest,
            }

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        weighted = [weight * term for name, term in terms.items() if (weight := getattr(self, name))]
        return sum(weighted[1:], weighted[0])
