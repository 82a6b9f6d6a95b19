"""Times of functions that take turns in one process, so that what else the machine does falls on all of them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence


def alternate(rounds: int, functions: Sequence[Callable[[], float]]) -> list[list[float]]:
    """Seconds per unit of each, one list of `rounds` values each, measured in turns after one warm-up."""
    for function in functions:
        function()
    seconds: list[list[float]] = [[] for _ in functions]
    for _ in range(rounds):
        for values, function in zip(seconds, functions, strict=True):
            values.append(function())
    return seconds


def spread(values: Sequence[float], scale: float, unit: str) -> str:
    return f"{min(values) * scale:.1f} {unit} (median {statistics.median(values) * scale:.1f})"
