"""The chain: a step towards the prior, one towards the condition, and noise.

    s <- s + e1 (R(s) - s) + e2 d log p(y = c | s) / ds + N(0, e3^2)                                      (Eq. 11)

e1, e2 and e3 are decoupled on purpose, so that this is no exact Langevin dynamics. Three rules make a step of them,
each followed by a clip of all entries:

    plain      the equation as it stands
    released   s <- s + (lr_i / mean|d|) d with d the sum above: the e's set proportions alone; lr_i of steps i = 0,
               ..., n - 1 is lr + (lr_end - lr) i / n
    stable     s <- s + lr_i (e1 (R(s) - s) + e2 g / mean|g| + e3 n): a step of the class that does not vanish when the
               class is reached, and one of the prior that does when R(s) = s

The released loop makes n + 1 passes and shows the image that the last of them begins with: it has had n steps, and a
step of length lr_end is never seen. Chains here are these n steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from datamodules.common.base import generator
from modules.ppgn.conditions import Condition
from modules.ppgn.spaces import Space

RULES = ("plain", "released", "stable")
TINY = 1e-30  # below it a direction counts as none


@dataclass(frozen=True)
class Sampler:
    """How a chain steps.

    Attributes:
        rule: one of RULES.
        e1, e2, e3: of the prior, the condition and the noise.
        e4: of the known pixels, in inpainting.
        lr, lr_end: step size of rules `released` and `stable`, linear from lr at the first step to lr_end after the
            last.
        steps: of a chain.
        low: lowest value of an entry; the highest is the run's.
    Raises:
        ValueError: another rule, fewer steps than 1 or a negative number.
    """

    rule: str = "released"
    e1: float = 1e-5
    e2: float = 1.0
    e3: float = 1e-17
    e4: float = 0.0
    lr: float = 1.0
    lr_end: float = 1.0
    steps: int = 200
    low: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"rule={self.rule!r}: expected one of {', '.join(RULES)}")
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: expected 1 or more")
        for name in ("e1", "e2", "e3", "e4", "lr", "lr_end"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected a number from 0")

    def rate(self, step: int) -> float:
        """lr_i, of steps 0, 1, ..."""
        return self.lr + (self.lr_end - self.lr) * step / self.steps

    def direction(self, prior: Tensor, condition: Tensor, context: Tensor, noise: Tensor) -> Tensor:
        """d of states (B, ...), from their four parts of the same shape."""
        if self.rule == "stable":
            condition = unit_mean(condition)
        return self.e1 * prior + self.e2 * condition + self.e4 * context + self.e3 * noise

    def move(self, direction: Tensor, step: int) -> Tensor:
        """What is added to the state, from the direction."""
        if self.rule == "plain":
            return direction
        if self.rule == "released":
            direction = unit_mean(direction)
        return self.rate(step) * direction

    def run(
        self,
        space: Space,
        condition: Condition | None,
        start: Tensor,
        target: Tensor,
        noise: ChainNoise | None = None,
        high: Tensor | float = 30.0,
        keep: Sequence[int] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """Chains from `start` to their ends.

        Args:
            space: what they move in.
            condition: what pulls them; None leaves them to the prior.
            start: states (B, ...).
            target: of the condition, one for each chain.
            noise: where e3 > 0.
            high: highest value of an entry.
            keep: numbers of steps after which the states are kept; 0 is the start.
        Returns:
            the states after the last step, and those kept, in the order of `keep`.
        """
        state = start.detach()
        kept = {0: state}
        with torch.inference_mode(False), torch.enable_grad():
            state, target = state.clone(), target.clone()  # made while testing, they could take part in no gradient
            for step in range(self.steps):
                parts = self.parts(space, condition, state, target)
                drawn = noise.draw(state) if noise is not None and self.e3 > 0 else torch.zeros_like(state)
                state = state + self.move(self.direction(*parts, drawn), step)
                state = state.clamp(min=self.low).minimum(torch.as_tensor(high).to(state))
                kept[step + 1] = state
                for old in [n for n in kept if n not in keep and n <= step]:
                    del kept[old]
        return state, [kept[n] for n in keep]

    def parts(
        self, space: Space, condition: Condition | None, state: Tensor, target: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """R(s) - s, the condition's gradient and that of what is known, in the states' shape; 0 where not needed."""
        zero = torch.zeros_like(state)
        state = state.detach().requires_grad_(True)
        x = space.decode(state)

        gradient = zero
        if condition is not None and self.e2:
            (gradient,) = torch.autograd.grad(condition(x, target).sum(), state)

        context = zero
        if self.e4 and (known := space.context(state)) is not None:
            (context,) = torch.autograd.grad(known.sum(), state)

        prior = space.reconstruct(state.detach(), x.detach()) - state.detach() if self.e1 else zero
        return prior, gradient.detach(), context.detach()


def unit_mean(d: Tensor) -> Tensor:
    """Each direction (B, ...) at a mean absolute entry of 1; 0 where it has none."""
    size = d.abs().flatten(1).mean(1).view(-1, *(1 for _ in d.shape[1:]))
    return torch.where(size > TINY, d / size.clamp(min=TINY), torch.zeros_like(d))


class ChainNoise:
    """N(0, 1) of chains, each from a generator of its own: the same on one process and on several.

    Args:
        seed: of the stage.
        numbers: of the chains.
    """

    def __init__(self, seed: int, numbers: Sequence[int]) -> None:
        self.sources = [generator("PPGN chain", seed, number) for number in numbers]

    def draw(self, like: Tensor) -> Tensor:
        """The next numbers of each chain, in the shape of the states `like` (B, ...)."""
        drawn = [torch.randn(like.shape[1:], generator=source) for source in self.sources]
        return torch.stack(drawn).to(like)


def with_options(sampler: Sampler, options: dict[str, Any]) -> Sampler:
    """The same sampler but for some of its attributes. Raises ValueError for one that it does not have."""
    try:
        return replace(sampler, **options)
    except TypeError as error:
        raise ValueError(f"{options}: {error}") from error
