"""Classification heads on detection probabilities: what turns "which components are there" into classes.

Every head maps d (B, K) in [0, 1] to a score of each of P reasoning concepts. All but two of them are

    p_c(x) = sum_k [ d_k r+_kc + (1 - d_k) r-_kc ] = d (r+ - r-) + sum_k r-_kc

and differ in what r+ and r- (K, P) may be. `reasoning()` gives these; None where a head is not of this form, and
then it has no certificate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

STARTS = ("shallow", "deep")


def agreement(d: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """p (B, P) of detections d (B, K) and reasoning r+, r- (K, P)."""
    return d @ (positive - negative) + negative.sum(0)


class Head(nn.Module):
    """Detections (B, K) -> scores of the concepts (B, P)."""

    def reasoning(self) -> tuple[Tensor, Tensor] | None:
        """r+, r- (K, P); None if the scores are no agreement of this form."""
        return None

    def forward(self, d: Tensor) -> Tensor:
        reasoning = self.reasoning()
        if reasoning is None:
            raise NotImplementedError(f"{type(self).__name__} says neither how it reasons nor what it computes")
        return agreement(d, *reasoning)

    def constrain(self) -> None:
        """Bring the parameters back to where they may be, after an optimiser's step."""


class StableCBC(Head):
    """This paper's: one softmax per concept over all 2K entries, so that sum_k (r+ + r-) = 1.

    The prior of component k is r+ + r-, its requiredness r+ / (r+ + r-).

    Args:
        components: K.
        concepts: P.
        start: "shallow" draws requiredness U[0.4, 0.6] and prior softmax(U[0, 1]), "deep" logits N(0.6, 0.2^2), as the
            released codes of the two experiments do.
    Raises:
        ValueError: another start.
    """

    def __init__(self, components: int, concepts: int, start: str = "shallow") -> None:
        super().__init__()
        if start not in STARTS:
            raise ValueError(f"start={start!r}: expected one of {', '.join(STARTS)}")
        if start == "deep":
            logits = 0.6 - 0.2 * torch.randn(2, components, concepts)
        else:
            requiredness = 0.6 - 0.2 * torch.rand(components, concepts)
            prior = torch.rand(components, concepts).softmax(0)
            logits = (torch.stack([requiredness, 1 - requiredness]) * prior).log()
        self.logits = nn.Parameter(logits)  # (2, K, P)

    def reasoning(self) -> tuple[Tensor, Tensor]:
        probabilities = self.logits.flatten(0, 1).softmax(0)  # (2K, P)
        positive, negative = probabilities.view_as(self.logits).unbind(0)
        return positive, negative


class NormalisedRBF(Head):
    """RBF network whose weights are a softmax over the components: stable CBC without negative reasoning.

    Args:
        components: K.
        concepts: P.
        start: "shallow" is Xavier's uniform, "deep" N(1, 0.1^2).
        shrink: subtracted from every logit after each step, which then stays at 0 or above, as the released deep RBF
            head does; 0 is off.
    Raises:
        ValueError: another start.
    """

    def __init__(self, components: int, concepts: int, start: str = "shallow", shrink: float = 0.0) -> None:
        super().__init__()
        if start not in STARTS:
            raise ValueError(f"start={start!r}: expected one of {', '.join(STARTS)}")
        self.logits = nn.Parameter(torch.empty(components, concepts))
        if start == "deep":
            nn.init.normal_(self.logits, 1.0, 0.1)
        else:
            nn.init.xavier_uniform_(self.logits)
        self.shrink = shrink

    def reasoning(self) -> tuple[Tensor, Tensor]:
        positive = self.logits.softmax(0)
        return positive, torch.zeros_like(positive)

    def constrain(self) -> None:
        shrink_weights(self.logits, self.shrink)


class OriginalCBC(Head):
    """CBC of 2019: each component is required, indefinite or negatively required, r+ + r0 + r- = 1 for each.

    Broken like a stick: r+ = A, r- = (1 - A) B with A, B in [0, 1], clipped after each step. The score divides by what
    is not indefinite, so that scaling all r+ and r- of a concept changes nothing: explanations are not unique. What is
    returned by `reasoning` are r+ and r- after this division, which sum to 1 over both.

    Args:
        components: K.
        concepts: P.
    """

    def __init__(self, components: int, concepts: int) -> None:
        super().__init__()
        self.sticks = nn.Parameter(0.6 - 0.2 * torch.rand(2, components, concepts))

    def states(self) -> tuple[Tensor, Tensor]:
        """r+, r- (K, P) before the division."""
        required, rest = self.sticks.unbind(0)
        return required, (1 - required) * rest

    def reasoning(self) -> tuple[Tensor, Tensor]:
        return divide_by_effective(*self.states())

    def constrain(self) -> None:
        with torch.no_grad():
            self.sticks.clamp_(0, 1)


def divide_by_effective(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Reasoning (K, P) over the sum of all that is not indefinite, of each concept."""
    effective = (positive + negative).sum(0) + 1e-7  # (P,)
    return positive / effective, negative / effective


class LinearRBF(Head):
    """Plain RBF network: free linear weights. No certificate is known for it.

    Args:
        components: K.
        concepts: P.
    """

    def __init__(self, components: int, concepts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(components, concepts)))

    def forward(self, d: Tensor) -> Tensor:
        return d @ self.weight


class PIPNet(Head):
    """PIP-Net's: weights at 0 or above, which sum without a norm.

    Args:
        components: K.
        concepts: P.
        shrink: subtracted from every weight after each step (0.001 as released).
    """

    def __init__(self, components: int, concepts: int, shrink: float = 1e-3) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(components, concepts), 1.0, 0.1))
        self.shrink = shrink

    def forward(self, d: Tensor) -> Tensor:
        return d @ self.weight.relu()

    def constrain(self) -> None:
        shrink_weights(self.weight, self.shrink)


def shrink_weights(weight: Tensor, by: float) -> None:
    """In place: weight - by, at least 0; nothing happens where `by` is 0."""
    if by:
        with torch.no_grad():
            weight.sub_(by).clamp_(min=0)
