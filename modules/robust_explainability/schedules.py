"""The released AdvProp code's learning rate."""

from __future__ import annotations

from collections.abc import Sequence

from modules.common.schedules import Position, multistep


def warmed_multistep(position: Position, milestones: Sequence[int], warmup: float = 5.0, gamma: float = 0.1) -> float:
    """Rises in a line from 0 over `warmup` epochs, then falls by `gamma` at each milestone; all in epochs."""
    epochs = position.epoch + (position.step + 1) / position.steps_per_epoch
    return min(1.0, epochs / warmup if warmup else 1.0) * multistep(position, milestones, gamma)
