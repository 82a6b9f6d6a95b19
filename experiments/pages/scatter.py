"""Our differences beside the published ones, where a paper's main claim has one: a picture, and a sentence. No torch.

Both are counted in what is worth the name, on the axis of the forest plot (see experiments.pages.forest). The settings
differ (a mini recipe on small data beside the paper's own), so that the sides are comparable and sizes hardly are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.pages import forest, numbers
from experiments.pages.markup import escape
from experiments.pages.numbers import fixed, signed

SIDE = 340  # px, of the plot
LEFT = 46
BOTTOM = 40
LETTER = 5.6  # px, of a label's letter
LINE = 12  # px, between two labels


@dataclass(frozen=True)
class Point:
    """A main claim whose paper reports the difference too; `row` is ours."""

    row: forest.Row
    published: float

    @property
    def agrees(self) -> bool:
        """Whether ours lies on the same side of the claim's margin as the published difference."""
        margin = self.row.margin
        return self.row.difference is not None and (self.row.difference - margin) * (self.published - margin) > 0

    @property
    def is_sure(self) -> bool:
        """Whether the whole interval lies on the published side."""
        margin = self.row.margin
        low, high = self.row.interval or (margin, margin)
        return low > margin if self.published > margin else high < margin

    @property
    def told(self) -> str:
        ours = numbers.span(self.row.difference, self.row.interval, self.row.unit)
        return f"{self.row.key}: published {signed(self.published)}, here {ours} ({self.row.word})"


def sentence(points: Sequence[Point]) -> str:
    """How many of our differences lie on the published side; empty where no paper reports one."""
    if not points:
        return ""
    same = [point for point in points if point.agrees]
    sure = sum(point.is_sure for point in same)
    papers = numbers.count(len(points), "paper")
    return (
        f"{papers} report{'s' if len(points) == 1 else ''} the main claim's difference: {len(same)} of "
        f"{len(points)} lie on the same side of the margin here, {sure} with the whole interval"
    )


def picture(points: Sequence[Point]) -> str:
    """Published from left to right, ours upwards; on the dotted line they are equal."""
    drawn = [point for point in points if point.row.scale is not None and point.row.difference is not None]
    body = _axes()
    taken: list[tuple[float, float, float]] = []
    for point in sorted(
        drawn, key=lambda point: (-point.row.at(point.row.difference or 0.0), point.told)
    ):  # from above
        x, y = _across(point.row.at(point.published)), _up(point.row.at(point.row.difference or 0.0))
        pale = f' opacity="{forest.PALE}"' if point.row.stale else ""
        label = _label(x, y, len(point.row.key) * LETTER, taken)
        text = f'<text x="{label[0]:g}" y="{label[1]:g}">{escape(point.row.key)}</text>'
        body.append(
            f'<g class="{point.row.verdict.replace(" ", "-")}" fill="currentColor"><title>{escape(point.told)}</title>'
            f'<g{pale}>{_interval(point, x)}<circle cx="{x:g}" cy="{y:g}" r="4"/></g>{text}</g>'
        )
    wide = LEFT + SIDE + 100
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="scatter" role="img" aria-label="{escape(_aloud(drawn))}" '
        f'width="{wide}" height="{SIDE + BOTTOM}" viewBox="0 0 {wide} {SIDE + BOTTOM}" font-size="10.5" '
        f'fill="currentColor">{"".join(body)}</svg>'
    )


def _aloud(points: Sequence[Point]) -> str:
    return "Published and our differences. " + "; ".join(point.told for point in points)


def _across(value: float) -> float:
    return LEFT + forest.place(value, SIDE)


def _up(value: float) -> float:
    return SIDE - forest.place(value, SIDE)


def _axes() -> list[str]:
    """Values on both axes, zero, and the line on which both differences are equal."""
    ink = 'stroke="currentColor"'
    marks = [
        f'<path d="M{LEFT} 0V{SIDE}H{LEFT + SIDE}" fill="none" {ink} opacity="0.5"/>',
        f'<path d="M{_across(0):g} 0V{SIDE}M{LEFT} {_up(0):g}H{LEFT + SIDE}" {ink} opacity="0.75"/>',
        f'<path d="M{LEFT} {SIDE}L{LEFT + SIDE} 0" {ink} opacity="0.5" stroke-dasharray="2 3"/>',
    ]
    for value in forest.TICKS:
        label = fixed(value, 0)
        marks.append(f'<text x="{_across(value):g}" y="{SIDE + 13}" text-anchor="middle" opacity="0.8">{label}</text>')
        marks.append(f'<text x="{LEFT - 6}" y="{_up(value) + 4:g}" text-anchor="end" opacity="0.8">{label}</text>')
    middle = SIDE / 2
    marks.append(f'<text x="{LEFT + middle:g}" y="{SIDE + 30}" text-anchor="middle">published</text>')
    marks.append(f'<text x="12" y="{middle:g}" text-anchor="middle" transform="rotate(-90 12 {middle:g})">here</text>')
    return marks


def _interval(point: Point, x: float) -> str:
    """Of our difference, as a bar; the published one has none that is known here."""
    if point.row.interval is None:
        return ""
    low, high = (_up(point.row.at(end)) for end in point.row.interval)
    return f'<path d="M{x:g} {low:g}V{high:g}" stroke="currentColor" stroke-width="1.5" opacity="0.6"/>'


def _label(x: float, y: float, wide: float, taken: list[tuple[float, float, float]]) -> tuple[float, float]:
    """A place to the right of a point, moved down until it is free; it is added to those taken."""
    left, line = x + 7, y + 4
    while any(abs(line - other) < LINE and left < end and left + wide > start for start, end, other in taken):
        line += LINE
    taken.append((left, left + wide, line))
    return round(left, 1), round(line, 1)
