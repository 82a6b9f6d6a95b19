"""Learning-rate schedules as functions of where training stands: a factor on each group's own rate.

A function of position has no state, so a resumed run and a run with several optimisers cannot drift from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Position:
    """epoch counts from 0, step is the batch within the epoch; max_epochs may be a fraction where steps are counted."""

    epoch: int
    step: int
    steps_per_epoch: int
    max_epochs: float

    @property
    def fraction(self) -> float:
        """0 at the first step, 1 after the last."""
        return (self.epoch + self.step / self.steps_per_epoch) / self.max_epochs


Schedule = Callable[[Position], float]


def multistep(position: Position, milestones: Sequence[int], gamma: float = 0.1) -> float:
    """gamma to the number of milestones reached; a milestone is the first epoch with the new rate."""
    return float(gamma ** sum(position.epoch >= milestone for milestone in milestones))


def cosine(position: Position, warmup_epochs: float = 0.0, final: float = 0.0) -> float:
    """Half a cosine from 1 to `final`, per step, after a linear warm-up from 0."""
    done = position.epoch + position.step / position.steps_per_epoch
    if done < warmup_epochs:
        return (done + 1 / position.steps_per_epoch) / warmup_epochs
    progress = (done - warmup_epochs) / (position.max_epochs - warmup_epochs)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def poly(position: Position, exponent: float = 0.9) -> float:
    """(1 - epoch / epochs) ** exponent, constant within an epoch."""
    return float((1 - position.epoch / position.max_epochs) ** exponent)


def staircase(position: Position, decay: float = 0.94, every: float = 2.0) -> float:
    """Learning rate as a factor: times `decay` after each `every` epochs, constant in between.

    `every` is rounded to whole steps: multiples of a fraction of an epoch are not exact in floating point.
    """
    done = position.epoch * position.steps_per_epoch + position.step
    return float(decay ** (done // max(1, round(every * position.steps_per_epoch))))
