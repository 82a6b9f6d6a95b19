"""ProtoPNet's learning rates over several joint phases."""

from __future__ import annotations

from modules.common.schedules import Position


def before_epoch(position: Position, every: int = 5, done: int = 0, gamma: float = 0.1) -> float:
    """gamma for each `every` epochs, counted before an epoch is trained: the first rate lasts every - 1 epochs.

    Args:
        done: epochs of this kind in earlier stages.
    """
    return float(gamma ** ((position.epoch + done + 1) // every))
