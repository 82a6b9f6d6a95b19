"""The generator's learning rate, in steps: its recipe counts batches, not epochs."""

from __future__ import annotations

from collections.abc import Sequence

from modules.common.schedules import Position


def after_steps(position: Position, milestones: Sequence[int], gamma: float = 0.5) -> float:
    """gamma to the number of milestones reached; a milestone is the first batch with the new rate."""
    done = position.epoch * position.steps_per_epoch + position.step
    return float(gamma ** sum(done >= milestone for milestone in milestones))
