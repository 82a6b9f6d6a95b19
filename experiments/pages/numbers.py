"""How numbers are written, wherever they are shown. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from experiments.evidence.sequences import t_interval


def number(value: float) -> str:
    """Enough digits for the size of the value."""
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    if size >= 10:
        return f"{value:.2f}"
    return f"{value:.3f}" if size >= 0.1 else f"{value:.4f}"


def signed(value: float) -> str:
    """A difference."""
    return f"{value:+.2f}" if abs(value) >= 1 or value == 0 else f"{value:+.3f}"


def span(difference: float | None, interval: Sequence[float] | None, unit: str) -> str:
    """A difference with its interval and unit, in words."""
    if difference is None:
        return "no difference"
    ends = f" [{signed(interval[0])}, {signed(interval[1])}]" if interval else ""
    return f"{signed(difference)}{ends} {unit}".rstrip()


def fixed(value: float, digits: int, sign: bool = False) -> str:
    """Fixed decimals and a real minus; `sign` writes a plus too. No negative zero."""
    text = f"{abs(value):.{digits}f}"
    if not text.strip("0."):
        return text
    if value < 0:
        return f"−{text}"
    return f"+{text}" if sign else text


def decimals(values: Sequence[float | None], two_from: float) -> int:
    """Decimals for numbers that stand together: two if the largest reaches `two_from`, more below."""
    size = max(map(abs, finite(values)), default=0.0)
    if size >= two_from:
        return 2
    return 3 if size >= 0.1 else 4


def finite(values: Sequence[float | None]) -> list[float]:
    """Those that are there and finite."""
    return [value for value in values if value is not None and math.isfinite(value)]


def mean_and_half(values: Sequence[float | None], write: Callable[[float], str]) -> tuple[str, str]:
    """Mean and half of the 95% t interval, each empty where there is none."""
    there = [value for value in values if value is not None]
    if not there:
        return "", ""
    if len(finite(there)) < len(there):
        return "not finite", ""
    estimate = t_interval(there)
    half = estimate.high - estimate.mean
    return write(estimate.mean), write(half) if math.isfinite(half) else ""


def duration(seconds: float) -> str:
    """Of a computation: 56 s, 12 min, 3.5 h."""
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def count(number_of: int, what: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number_of} {what}" if number_of == 1 else f"{number_of} {what}s"
