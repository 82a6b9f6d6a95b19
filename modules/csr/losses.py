"""Local concept vectors, similarity to several prototypes, and the contrastive loss over them (Eq. 2 and 6 to 9)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def local_vectors(features: Tensor, cams: Tensor) -> Tensor:
    """Eq. 2: of each concept, the features averaged over positions by the softmax of its map.

        v^k = sum_{h,w} softmax_{h,w}(cam^k)(h, w) f(h, w)

    The softmax is over the map as it is: neither squashed nor brought to a common range.

    Args:
        features: f, (B, c, H, W).
        cams: (B, K, H, W).
    Returns:
        (B, K, c).
    """
    weights = cams.flatten(2).softmax(2)  # (B, K, HW)
    return torch.einsum("bkn,bcn->bkc", weights, features.flatten(2))


def concept_similarities(cosines: Tensor, gamma: float) -> Tensor:
    """Eq. 6 to 8: a concept's similarity, the mean over its prototypes weighted by a softmax of the cosines themselves.

    With a large gamma this is the largest cosine, with gamma = 0 the mean; with one prototype, gamma plays no part.

    Args:
        cosines: (..., K, M).
        gamma: sharpness.
    Returns:
        (..., K).
    """
    return ((gamma * cosines).softmax(-1) * cosines).sum(-1)


@dataclass(frozen=True)
class ContrastiveLoss:
    """Eq. 9: cross-entropy over concepts, with a margin on the right one.

        L = -log( exp(scale (sim_y + margin)) / (exp(scale (sim_y + margin)) + sum_{k != y} exp(scale sim_k)) )

    Args:
        scale: lambda.
        gamma: see concept_similarities.
        margin: delta.
    """

    scale: float = 20.0
    gamma: float = 1000.0
    margin: float = 0.1

    def __call__(self, cosines: Tensor, concept: Tensor) -> Tensor:
        """The mean over vectors. cosines (V, K, M), in fp32; concept (V,), the one each vector is of."""
        similarities = concept_similarities(cosines, self.gamma)  # (V, K)
        margin = self.margin * F.one_hot(concept, similarities.shape[1])
        return F.cross_entropy(self.scale * (similarities + margin), concept)
