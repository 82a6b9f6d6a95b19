"""The learning rates of G-SimCLR's two recipes, counted in steps (arXiv 2009.12007)."""

from __future__ import annotations

import math

from modules.common.schedules import Position


def _steps(position: Position) -> int:
    return position.epoch * position.steps_per_epoch + position.step


def cosine_steps(position: Position, steps: int = 1000) -> float:
    """Half a cosine from 1 to 0 over the first `steps` steps, then 0."""
    return 0.5 * (1 + math.cos(math.pi * min(1.0, _steps(position) / steps)))


def cosine_restarts(position: Position, first: int = 1000, growth: float = 2.0) -> float:
    """Half a cosine from 1 to 0 again and again: over `first` steps, then over periods each `growth` times as long."""
    done, period = float(_steps(position)), float(first)
    while done >= period:
        done -= period
        period *= growth
    return 0.5 * (1 + math.cos(math.pi * done / period))
