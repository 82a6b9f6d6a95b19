"""SPARSE's supervised loss as functions of logits, and the two readings of "classification loss".

L_sup = L_proto + alpha L_mut + beta L_ent + gamma L_mix        (of each network; the code adds L_cls for D and C)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.common.precision import at_least_single

CLASS_LOSSES = ("softmax", "binary")
DIRECTIONS = ("mean_to_network", "network_to_mean")


@dataclass(frozen=True)
class Supervision:
    """Weights of the supervised loss; the defaults are the paper's Table 2.

    Args:
        alpha, beta, gamma: of mutual learning, entropy and mixup.
        kl: lambda_kl, within mutual learning.
        temperature: T, within prototypes and mutual learning.
        direction: "mean_to_network" is KL(mean of the others || p_m), as coded, "network_to_mean" the other way round,
            as the paper writes it.
        mutual_gradient: false reads the three networks' probabilities without a gradient and applies softmax to them
            a second time, as coded: the term then teaches nothing.
        mixup: parameter of the Beta distribution.
        classification: adds L_cls for D and C, as coded.
    Raises:
        ValueError: no such direction, or a temperature that is not above 0.
    """

    alpha: float = 0.1
    beta: float = 0.01
    gamma: float = 0.5
    kl: float = 0.5
    temperature: float = 2.0
    direction: str = "mean_to_network"
    mutual_gradient: bool = True
    mixup: float = 0.2
    classification: bool = False

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise ValueError(f"direction={self.direction!r}: expected one of {', '.join(DIRECTIONS)}")
        if self.temperature <= 0 or self.mixup <= 0:
            raise ValueError(f"temperature={self.temperature}, mixup={self.mixup}: expected numbers above 0")


def prototype_loss(logits: Tensor, y: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of -|p - c_k|^2, with p = softmax(logits / T) and c_k the mean of p over the batch's class k.

    A class that the batch lacks has the prototype 0. Prototypes have a gradient. logits (B, K), y (B,).
    """
    p = (at_least_single(logits) / temperature).softmax(1)  # (B, K)
    members = F.one_hot(y, p.shape[1]).to(p)  # (B, K)
    prototypes = members.T @ p / members.sum(0).clamp(min=1)[:, None]  # (K, K), a row a class
    distances = (p[:, None] - prototypes[None]).square().sum(2)  # (B, K)
    return F.cross_entropy(-distances, y)


def mutual_loss(all_logits: Sequence[Tensor], y: Tensor, rules: Supervision) -> Tensor:
    """Sum over the networks of CE(m, y) + lambda_kl KL(mean of the other two || p_m). Each (B, K), y (B,)."""
    all_logits = [at_least_single(logits) for logits in all_logits]
    if not rules.mutual_gradient:
        all_logits = [logits.detach().softmax(1) for logits in all_logits]
    log_p = [(logits / rules.temperature).log_softmax(1) for logits in all_logits]
    total = all_logits[0].new_zeros(())
    for m, logits in enumerate(all_logits):
        others = torch.stack([q.exp() for n, q in enumerate(log_p) if n != m]).mean(0)  # (B, K)
        log_others = others.clamp(min=1e-12).log()
        pair = (log_others, log_p[m]) if rules.direction == "mean_to_network" else (log_p[m], log_others)
        total = total + F.cross_entropy(logits, y) + rules.kl * kl_divergence(*pair)
    return total


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q), mean over the batch. (B, K) each."""
    return (log_p.exp() * (log_p - log_q)).sum(1).mean()


def entropy_loss(logits: Tensor) -> Tensor:
    """Mean entropy of softmax(logits), nats. (B, K)."""
    log_p = at_least_single(logits).log_softmax(1)
    return -(log_p.exp() * log_p).sum(1).mean()


def mixup_loss(logits: Tensor, y: Tensor, order: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of mixed images with the equally mixed labels: weight of y, the rest of y[order]. (B, K), (B,)."""
    logits = at_least_single(logits)
    return weight * F.cross_entropy(logits, y) + (1 - weight) * F.cross_entropy(logits, y[order])


def class_loss(logits: Tensor, y: Tensor, kind: str) -> Tensor:
    """L_cls of each image, (B,): softmax cross-entropy (paper), or the sum of K binary ones (code). (B, K), (B,)."""
    logits = at_least_single(logits)
    if kind == "softmax":
        return F.cross_entropy(logits, y, reduction="none")
    target = F.one_hot(y, logits.shape[1]).to(logits)
    return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)


def supervised_terms(
    clean: Mapping[str, Tensor],
    mixed: Mapping[str, Tensor],
    y: Tensor,
    order: Tensor,
    weight: Tensor,
    rules: Supervision,
) -> dict[str, Tensor]:
    """The terms of L_sup, summed over the networks and weighted; their sum is what all networks minimise.

    Every term but L_mut holds one network alone, so that the sum's gradient is that of each network's own L_sup.

    Args:
        clean, mixed: each network's logits (B, K) of the images and of the mixed images.
        y: labels (B,).
        order, weight: what was mixed, see mixup_loss.
    """
    terms = {
        "prototypes": total(prototype_loss(logits, y, rules.temperature) for logits in clean.values()),
        "mutual": rules.alpha * mutual_loss([*clean.values()], y, rules),
        "entropy": rules.beta * total(entropy_loss(logits) for logits in clean.values()),
        "mixup": rules.gamma * total(mixup_loss(logits, y, order, weight) for logits in mixed.values()),
    }
    return terms


def total(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack([*terms]).sum()
