"""The terms of MaEM-GAN's losses, as functions of codes (B, K) that the discriminator gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """L_MaF of the discriminator: -mean D(x_r) + mean D(x_f), over batch and dimensions."""
    return fake.mean() - real.mean()


def generator_loss(fake: Tensor) -> Tensor:
    """L_MaF of the generator: -mean D(G(n))."""
    return -fake.mean()


def dlle_loss(code: Tensor, neighbour: Tensor) -> Tensor:
    """L_DLLE: mean squared distance to the code of a neighbouring image, through which no gradient flows."""
    return F.mse_loss(code, neighbour.detach())


def mix(alpha: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """alpha a_r + (1 - alpha) a_f for samples or codes (B, ...), alpha (B,): the line through both, beyond them too."""
    weight = alpha.view(-1, *(1 for _ in real.shape[1:]))
    return weight * real + (1 - weight) * fake


ALPHAS = ("normal", "uniform")


@dataclass(frozen=True)
class Mixing:
    """How DIsoMap mixes samples.

    Attributes:
        alpha: "normal", N(0, 1): the line through two samples; "uniform", U(0, 1): the piece between them.
        noise: standard deviation of what is added to the codes aimed at.
        weight: of the term.
    Raises:
        ValueError: another alpha.
    """

    alpha: str = "normal"
    noise: float = 0.05
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.alpha not in ALPHAS:
            raise ValueError(f"alpha={self.alpha!r}: expected one of {', '.join(ALPHAS)}")

    def weigh(self, normal: Tensor) -> Tensor:
        """alpha (B,) from standard normal numbers (B,)."""
        return normal if self.alpha == "normal" else (1 + torch.erf(normal / 2**0.5)) / 2


def disomap_loss(mixed: Tensor, real: Tensor, fake: Tensor, alpha: Tensor, noise: Tensor) -> Tensor:
    """L_DIsoMap: distances along straight lines are kept.

        mean (D(alpha x_r + (1 - alpha) x_f) - sg[alpha D(x_r) + (1 - alpha) D(x_f) + noise])^2

    Args:
        mixed: codes of the mixed samples.
        real, fake: codes of the samples mixed.
        alpha: (B,).
        noise: (B, K), of standard deviation 0.05 in the paper.
    """
    target = mix(alpha, real, fake) + noise
    return F.mse_loss(mixed, target.detach())


def relative_pull(term: Tensor, rest: Tensor, codes: Tensor) -> Tensor:
    """Norm of the gradient of `term` over that of `rest`, both with respect to codes (B, K)."""
    ours, others = (torch.autograd.grad(value, codes, retain_graph=True)[0].norm() for value in (term, rest))
    return ours / others


def squared_distances(codes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """(1/K) |z_i - b|^2 to the nearest of points (M, K), and which it is; both (B,). Gradients reach the codes alone.

    Distances are computed from differences: |z|^2 - 2 z b + |b|^2 loses small ones.
    """
    with torch.no_grad():
        nearest = torch.cdist(codes, points, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    return (codes - points[nearest].detach()).square().mean(1), nearest
