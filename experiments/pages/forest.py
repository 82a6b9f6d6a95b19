"""All main claims in one picture: each difference and its interval, counted in what is worth the name. No torch.

Claims have different units, so each is divided by its own `worth` (or `within`) and measured from its margin: right of
0 speaks for the claim, from 1 on the difference is worth the name. The axis is linear near 0 and logarithmic far from
it (the inverse hyperbolic sine): a difference of thirty times the worth does not press all others together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.pages.drawing import path
from experiments.pages.markup import escape
from experiments.pages.numbers import fixed, signed

ENDS = (-20.0, 40.0)  # of the axis, in what is worth the name
TICKS = (-10, -3, -1, 0, 1, 3, 10, 30)
WIDE = 300  # px, of the axis
CELL = 180  # px, of the axis in a table
LABEL = 190  # px, for names in the standalone picture
HIGH = 17  # px, of a row in the standalone picture
WORD = 135  # px, for verdicts in the standalone picture
NOTES = (
    "Bar: 95% interval. Solid line: no difference from the margin.",
    "Dashed line: the smallest difference worth the name. Band: an equivalence.",
    "Effect only: the bar is against the baseline; a rival does as well.",
    "Pale: stale, since code or claims have changed after the run.",
)
TOP = 44 + 17 * len(NOTES)  # px, above the rows
PALE = 0.7  # opacity of a stale row's bar: three to one against either page; its word stays whole
INK = {"light": "#1d2127", "dark": "#e4e6e9"}
COLOURS = {  # verdict -> light, dark; the word stands beside it
    "supported": ("#17653c", "#73d29f"),
    "refuted": ("#a3271c", "#ff9a8c"),
    "undecided": ("#7d5a00", "#e6c260"),
    "no-gain": ("#1f5fa8", "#86bbf5"),
    "effect-only": ("#1f5fa8", "#86bbf5"),
    "untested": ("#6d3d92", "#cfa6ea"),
    "holds": ("#17653c", "#73d29f"),
    "fails": ("#a3271c", "#ff9a8c"),
}


@dataclass(frozen=True)
class Row:
    """A main claim: its numbers in its own unit."""

    key: str
    verdict: str
    difference: float | None
    interval: Sequence[float] | None
    margin: float = 0.0
    worth: float | None = None
    within: float | None = None
    unit: str = ""
    stale: bool = False

    @property
    def scale(self) -> float | None:
        """What one unit of the axis is in the claim's unit; None where nothing says what is worth the name."""
        return self.worth or self.within or None

    def at(self, value: float) -> float:
        """A difference on the axis."""
        assert self.scale is not None
        return (value - self.margin) / self.scale

    @property
    def word(self) -> str:
        """The verdict, and whether code or claims have changed since."""
        return f"{self.verdict}, stale" if self.stale else self.verdict

    @property
    def told(self) -> str:
        """The row for those who do not see it."""
        if self.difference is None:
            return f"{self.key}: {self.word}"
        ends = f" [{signed(self.interval[0])}, {signed(self.interval[1])}]" if self.interval else ""
        return f"{self.key}: {self.word}, {signed(self.difference)}{ends} {self.unit}".rstrip()


def place(value: float, wide: float = WIDE) -> float:
    """Pixels from the left edge of the axis; what lies outside is at the edge."""
    low, high = (math.asinh(end) for end in ENDS)
    inside = min(max(math.asinh(value), low), high)
    return round((inside - low) / (high - low) * wide, 1)


def mark(row: Row, y: float, wide: float = WIDE) -> str:
    """The interval as a bar with a diamond at the difference; an arrowhead where it goes on outside the picture."""
    if row.difference is None or row.scale is None:
        return ""

    drawn = []
    if row.within is not None:
        left, right = place(-1, wide), place(1, wide)
        drawn.append(f'<rect x="{left}" y="{y - 6:g}" width="{right - left:.1f}" height="12" opacity="0.15"/>')
    if row.interval is not None:
        low, high = (row.at(end) for end in row.interval)
        drawn.append(path(f"M{place(low, wide)} {y:g}H{place(high, wide)}", 'stroke="currentColor" stroke-width="2"'))
        drawn.append(_end(low, -1, y, wide))
        drawn.append(_end(high, 1, y, wide))
    x = place(row.at(row.difference), wide)
    drawn.append(path(f"M{x} {y - 4.5:g}l4.5 4.5l-4.5 4.5l-4.5 -4.5z"))
    return "".join(drawn)


def _end(value: float, side: int, y: float, wide: float) -> str:
    """An end of an interval, on the left for side -1: an arrowhead where the axis ends before it."""
    x = place(value, wide)
    is_outside = not ENDS[0] <= value <= ENDS[1]
    shape = f"M{x} {y:g}l{-6 * side} -4v8z" if is_outside else f"M{x} {y - 3.5:g}v7"
    return path(shape, 'stroke="currentColor"')


def lines(top: float, bottom: float, wide: float = WIDE) -> str:
    """Zero, and what is worth the name."""
    zero, one = place(0, wide), place(1, wide)
    ink = 'stroke="currentColor"'
    solid = path(f"M{zero} {top:g}V{bottom:g}", f'{ink} opacity="0.75"')
    dashed = path(f"M{one} {top:g}V{bottom:g}", f'{ink} opacity="0.5" stroke-dasharray="3 2"')
    return solid + dashed


def labels(y: float, wide: float = WIDE) -> str:
    """The values of the axis."""
    texts = [
        f'<text x="{place(value, wide)}" y="{y:g}" text-anchor="middle" opacity="0.8">{fixed(value, 0)}</text>'
        for value in TICKS
    ]
    return "".join(texts)


def cell(row: Row, wide: float = CELL) -> str:
    """A row's picture for a table; the same width for all rows, so that they share an axis."""
    high = 18
    pale = f' opacity="{PALE}"' if row.stale else ""
    drawn = f'<g class="{_name(row.verdict)}" fill="currentColor"{pale}>{mark(row, high / 2, wide)}</g>'
    body = lines(0, high, wide) + drawn
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="forest" role="img" aria-label="{escape(row.told)}" '
        f'width="{wide:g}" height="{high}" viewBox="0 0 {wide:g} {high}">{body}</svg>'
    )


def head(wide: float = CELL) -> str:
    """The axis above such rows."""
    told = "axis: differences in multiples of the smallest that is worth the name"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="forest" role="img" aria-label="{told}" width="{wide:g}" '
        f'height="14" viewBox="0 0 {wide:g} 14" font-size="10" fill="currentColor">{labels(11, wide)}</svg>'
    )


def picture(rows: Sequence[Row]) -> str:
    """All rows as a file of its own, legible on a light and on a dark page."""
    width = LABEL + WIDE + WORD
    bottom = TOP + HIGH * len(rows)
    body = [
        '<text x="10" y="16" font-weight="600">Main claims: difference over the smallest worth the name</text>',
        f'<g transform="translate({LABEL} 0)">{labels(TOP - 8)}{lines(TOP - 4, bottom)}</g>',
    ]
    for index, row in enumerate(rows):
        y = TOP + HIGH * (index + 0.5)
        body.append(f'<text x="10" y="{y + 4:g}">{escape(row.key)}</text>')
        pale = f' opacity="{PALE}"' if row.stale else ""
        drawn = f'<g transform="translate({LABEL} 0)"{pale}>{mark(row, y)}</g>'
        word = f'<text x="{LABEL + WIDE + 12}" y="{y + 4:g}">{escape(row.word)}</text>'
        title = f"<title>{escape(row.told)}</title>"
        body.append(f'<g class="{_name(row.verdict)}" fill="currentColor">{title}{drawn}{word}</g>')
    body.append(f'<g transform="translate({LABEL} 0)">{labels(bottom + 14)}</g>')
    for number, told in enumerate(NOTES):  # before the rows that they explain
        body.append(f'<text x="10" y="{34 + 17 * number:g}" opacity="0.8">{told}</text>')
    height = bottom + 22
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height:g}" viewBox="0 0 {width} {height:g}" '
        f'role="img" aria-label="The main claims of {len(rows)} papers with their intervals" font-size="11" '
        f'font-family="system-ui, sans-serif" fill="currentColor">\n<style>{_style()}</style>\n'
        + "\n".join(body)
        + "\n</svg>\n"
    )


def _name(verdict: str) -> str:
    return verdict.replace(" ", "-")


def _style() -> str:
    """Colours for both kinds of page, and letters that can be read where a telephone shrinks the picture."""
    rules = ["", ""]
    for index, ink in enumerate(INK.values()):
        rules[index] = f"svg{{color:{ink}}}" + "".join(
            f".{name}{{color:{pair[index]}}}" for name, pair in COLOURS.items()
        )
    small = "@media (max-width:450px){text{font-size:14px}}"
    return f"{rules[0]}@media (prefers-color-scheme:dark){{{rules[1]}}}{small}"
