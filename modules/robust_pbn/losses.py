"""What the prototype networks are trained with: pure functions of a batch, and the objects that a recipe names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.common.distributed import summed


def margin_loss(scores: Tensor, right: Tensor, margin: float) -> Tensor:
    """(B,): relu( max_wrong p - max_right p + margin ). Scores (B, P), right (B, P) bool."""
    best_right = scores.masked_fill(~right, -torch.inf).amax(1)
    best_wrong = scores.masked_fill(right, -torch.inf).amax(1)
    return (best_wrong - best_right + margin).relu()


def robust_loss(radius: Tensor, target: float) -> Tensor:
    """(B,): relu( rho - eps ): nothing is asked of an image whose certified radius has reached rho."""
    return (target - radius).relu()


def glvq_loss(distances: Tensor, right: Tensor) -> Tensor:
    """(B,): (d+ - d-) / (d+ + d-) of the nearest right and the nearest wrong prototype, in (-1, 1).

    Distances (B, P), squared or not, right (B, P) bool.
    """
    plus = distances.masked_fill(~right, torch.inf).amin(1)
    minus = distances.masked_fill(right, torch.inf).amin(1)
    return (plus - minus) / (plus + minus + 1e-8)


def alignment_loss(first: Tensor, second: Tensor) -> Tensor:
    """PIP-Net's L_A of two views' maps (B, K, H, W), each a distribution over K at every place.

    -log <z1, z2>, mean over places, the gradient through one of the two at a time, averaged over which.
    """

    def one_way(z: Tensor, target: Tensor) -> Tensor:
        return -((z * target.detach()).sum(1) + 1e-12).log().mean()

    return (one_way(first, second) + one_way(second, first)) / 2


def tanh_loss(detections: Tensor) -> Tensor:
    """PIP-Net's L_T of d (B, K): -mean_k log tanh( sum over the batch of d_k ), so that every component is used.

    Of the global batch under several processes. Each then has the same value, whose gradient reaches an image once for
    each of them: what the average over processes makes right.
    """
    return -(summed(detections.sum(0)).tanh() + 1e-8).log().mean()


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "raw": lambda scores: scores,
    "share": lambda scores: scores.clamp(min=1e-12).log(),
    "pipnet": lambda scores: scores.square().log1p(),
}


class Evidence(Protocol):
    """What a network says of a batch. `scores`: (B, P), higher for more likely; `distances`: (B, K)."""

    scores: Tensor
    distances: Tensor

    def radius(self, right: Tensor) -> Tensor: ...

    def class_scores(self) -> Tensor: ...


@dataclass(frozen=True)
class Margin:
    """The margin loss; 0.3 for the shallow network, 0.025 for the deep one."""

    margin: float = 0.3

    def __call__(self, evidence: Evidence, right: Tensor, y: Tensor) -> Tensor:
        return margin_loss(evidence.scores, right, self.margin)


@dataclass(frozen=True)
class Robust:
    """The robust loss with the target radius rho."""

    rho: float = 1.58

    def __call__(self, evidence: Evidence, right: Tensor, y: Tensor) -> Tensor:
        return robust_loss(evidence.radius(right), self.rho)


@dataclass(frozen=True)
class CrossEntropy:
    """Cross-entropy of the softmax of f(scores of the classes).

    Args:
        form: "raw", f(p) = p, as the released shallow RBF networks have it; the softmax of agreements in [0, 1] stays
            far from certain. "share", f(p) = log p, is the cross-entropy of p / sum p. "pipnet", f(p) = log(1 + p^2),
            is that of PIP-Net and the released deep RBF head.
    Raises:
        ValueError: another form.
    """

    form: str = "raw"

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form={self.form!r}: expected one of {', '.join(FORMS)}")

    def __call__(self, evidence: Evidence, right: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(FORMS[self.form](evidence.class_scores()), y, reduction="none")


@dataclass(frozen=True)
class GLVQ:
    """The loss of generalised learning vector quantisation, on the distances as they are compared."""

    def __call__(self, evidence: Evidence, right: Tensor, y: Tensor) -> Tensor:
        return glvq_loss(-evidence.scores, right)
