"""RotNet's learning rates (arXiv 1803.07728)."""

from __future__ import annotations

from collections.abc import Sequence

from modules.common.schedules import Position


def piecewise_constant(position: Position, ends: Sequence[float], rates: Sequence[float]) -> float:
    """Learning rates as factors on the first: rates[i] until ends[i] epochs; the last one stays after its end."""
    done = position.epoch + position.step / position.steps_per_epoch
    rate = next((rate for end, rate in zip(ends, rates, strict=True) if done < end), rates[-1])
    return rate / rates[0]
