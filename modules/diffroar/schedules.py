"""The released notebook's learning rate."""

from __future__ import annotations

from modules.common.schedules import Position


def floored(position: Position, decay: float = 0.75, every: int = 50, floor: float = 0.1) -> float:
    """`decay` to the number of whole `every` epochs, at least `floor`."""
    return float(max(floor, decay ** (position.epoch // every)))
