"""The released learning rate."""

from __future__ import annotations

from modules.common.schedules import Position


def poly_from_one(position: Position, exponent: float = 0.9) -> float:
    """(1 - e / E)^0.9 with epochs e counted from 1: the first of 30 trains at 0.970 of the rate, the last at 0."""
    return float((1 - (position.epoch + 1) / position.max_epochs) ** exponent)
