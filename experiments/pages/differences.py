"""Figures of values over seeds: a claim's paired differences with their interval, and a sweep's setting. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from experiments.evidence.sweeps import Swept
from experiments.pages.display import Claim
from experiments.pages.drawing import LIGHT, Axis, diamond, line, path, svg, text
from experiments.pages.markup import escape
from experiments.pages.numbers import decimals, finite, fixed


def limits(claims: Sequence[Claim]) -> tuple[float, float]:
    """One range for claims that share a unit, so that their figures can be compared by eye.

    Every seed, zero, margin and band lies inside. An interval may stretch the range threefold, no further: two seeds
    have intervals so wide that nothing else could be seen.
    """
    points = [0.0]
    ends = []
    for claim in claims:
        points += finite(claim.per_seed)
        points += [claim.margin] if claim.within is None else [-claim.within, claim.within]
        points += [claim.published.difference] if claim.published else []
        ends += finite(claim.interval or [])
    low, high = min(points), max(points)
    room = high - low or 1.0
    lowest = min([low, *(max(end, low - room) for end in ends)])
    highest = max([high, *(min(end, high + room) for end in ends)])
    return _padded(lowest, highest, 0.05)


def _padded(low: float, high: float, share: float) -> tuple[float, float]:
    """A range with a margin on both sides."""
    pad = share * (high - low or 1.0)
    return low - pad, high + pad


def span(claim: Claim, together: Sequence[Claim]) -> tuple[float, float]:
    """The range shared by all claims of the same metric and kind, unless this one would fill less than a quarter."""
    alike = [other for other in together if _is_alike(other, claim)]
    own, shared = limits([claim]), limits(alike)
    return shared if 4 * (own[1] - own[0]) > shared[1] - shared[0] else own


def _is_alike(a: Claim, b: Claim) -> bool:
    return a.metric == b.metric and (a.within is None) == (b.within is None)


def draw_claim(claim: Claim, extent: tuple[float, float]) -> str:
    """A claim's paired differences: one dot per seed, the mean with its interval, and the line that decides.

    Args:
        claim: as judged.
        extent: the range of the axis, from `span`.
    """
    width, height, floor = 260, 62, 42
    axis = Axis(*extent, 10, width - 10)
    interval = claim.interval or ()
    digits = decimals([claim.difference, *interval], two_from=1)
    body = [*_decision(claim, axis, floor), *_scale(axis, floor, 7)]
    if interval:
        body += _bar(interval, axis, extent)
    if claim.published is not None:
        body.append(_published(axis(claim.published.difference), fixed(claim.published.difference, digits, True)))
    if claim.difference is not None:
        body.append(diamond(axis(claim.difference), 8, f"mean {fixed(claim.difference, digits, True)}"))
    for seed, value in zip(claim.seeds, claim.per_seed, strict=True):
        if math.isfinite(value):
            body.append(_dot(axis(value), 31, f"seed {seed}: {fixed(value, digits, True)}"))
    return svg(width, height, _in_words(claim, digits), body, "difference")


def _published(x: float, difference: str) -> str:
    """A triangle at what the paper reports."""
    outline = 'fill="none" stroke="currentColor" stroke-width="1.3"'
    return path(f"M{x:g} 36l5 -9h-10z", outline, f"published {difference}")


def _in_words(claim: Claim, digits: int) -> str:
    """What the figure of a claim shows, for those who do not see it."""
    mean = f"mean {fixed(claim.difference, digits, True)}, " if claim.difference is not None else ""
    ends = " to ".join(fixed(end, digits, True) for end in claim.interval or ())
    interval = f"interval {ends}" if ends else "no interval"
    return f"{claim.name}: {len(claim.per_seed)} paired differences, {mean}{interval}"


def _decision(claim: Claim, axis: Axis, floor: float) -> list[str]:
    """Zero, and the margin or the band that the interval is held against."""
    marks = []
    if claim.within is not None:
        left, right = axis(-claim.within), axis(claim.within)
        marks.append(f'<rect x="{left}" y="3" width="{right - left:g}" height="{floor - 3}" opacity="0.12"/>')
        for x in (left, right):
            marks.append(line(x, 3, x, floor, 'stroke-width="1.2" stroke-dasharray="3 2"'))
    elif claim.margin:
        x = axis(claim.margin)
        marks.append(line(x, 3, x, floor, 'stroke-width="1.4" stroke-dasharray="3 2"'))
    opacity = 0.35 if claim.margin else 0.8
    zero = axis(0)
    return [*marks, line(zero, 3, zero, floor, f'stroke-width="1.4" opacity="{opacity}"')]


def _scale(axis: Axis, floor: float, count: int) -> list[str]:
    """A horizontal axis with about `count` values."""
    marks = [line(axis.start, floor, axis.end, floor, 'opacity="0.45"')]
    for value, label in axis.ticks(count):
        marks.append(line(axis(value), floor, axis(value), floor + 4, 'opacity="0.45"'))
        marks.append(text(axis(value), floor + 16, label, 'text-anchor="middle" opacity="0.8"'))
    return marks


def _bar(interval: Sequence[float], axis: Axis, extent: tuple[float, float]) -> list[str]:
    """An interval, with an arrowhead where it goes on outside the picture."""
    marks = [line(axis(interval[0]), 14, axis(interval[1]), 14, 'stroke-width="2"')]
    for end, side in zip(interval, (-1, 1), strict=True):
        x = axis(end)
        if extent[0] <= end <= extent[1]:
            marks.append(line(x, 10, x, 18, 'stroke-width="2"'))
        else:
            marks.append(path(f"M{x + 6 * side:g} 14l{-7 * side} -4.5v9z"))
    return marks


def _dot(x: float, y: float, tip: str) -> str:
    """A seed."""
    look = f'style="fill:var(--s0,{LIGHT[0]})" fill-opacity="0.55" stroke="currentColor" stroke-width="0.8"'
    return f'<circle cx="{x}" cy="{y:g}" r="4" {look}><title>{escape(tip)}</title></circle>'


def reach(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """One range for all values of all groups, with a margin."""
    points = finite([value for group in groups for value in group]) or [0.0]
    return _padded(min(points), max(points), 0.06)


def draw_setting(row: Swept, extent: tuple[float, float]) -> str:
    """One setting of a sweep: a dot per seed, a diamond at the mean, the interval as far as the axis goes.

    Args:
        row: a setting that has a mean.
        extent: the range of the axis, from `reach`.
    """
    assert row.mean is not None
    width, height, floor = 260, 44, 24
    axis = Axis(*extent, 12, width - 12)

    body = _scale(axis, floor, 6)
    if row.interval:
        low, high = map(axis, row.interval)
        body.append(line(low, 12, high, 12, 'stroke-width="2"'))
    body.append(diamond(axis(row.mean), 6))
    for seed, value in zip(row.seeds, row.values, strict=True):
        body.append(_dot(axis(value), 12, f"seed {seed}: {value:.4g}"))

    told = f"{row.setting}: mean {row.mean:.4g} of {len(row.values)}"
    return svg(width, height, told, body, "difference")
