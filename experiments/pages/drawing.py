"""What figures of the report are drawn with: self-contained SVG, with no script, no id and no outside resource.

The same data gives the same string. Ink is `currentColor` and a stage's colour a CSS variable with a fallback, so that
a page decides about light and dark. Every text that comes from data is escaped here; the strings are safe to embed.
Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from experiments.pages.markup import escape
from experiments.pages.numbers import fixed

LIGHT = ("#1f5fa8", "#b4471a", "#1d7a4c", "#7b3f9d", "#94700b", "#0f7480", "#ad2d6b", "#5c6470")
DARK = ("#79b4f2", "#f39a6b", "#6fcf9b", "#c79be6", "#dcb854", "#66cbd6", "#ef8cbb", "#aab3bf")
DASHES = ("", "7 3", "2 2.5")
TEXT = 11  # px; drawings are laid out so that they are never shown smaller than drawn on a phone
LETTER = 6.3  # px, width of a letter at that size in a wide font, for boxes around text


@dataclass(frozen=True)
class Axis:
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixels; a value outside lies on the edge, also an infinite one."""
        inside = min(max(value, self.low), self.high)
        return round(self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    def beyond(self, value: float) -> float:
        """Pixels, also outside: what is drawn with it is clipped."""
        scale = (self.end - self.start) / (self.high - self.low)
        return round(self.start + (value - self.low) * scale, 1)

    def ticks(self, count: int) -> list[tuple[float, str]]:
        """At most about `count` round values with their labels."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))

        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        values = [number * step for number in range(first, last + 1)]
        return [(value, fixed(value, digits)) for value in values]


def svg(width: float, height: float, label: str, body: Sequence[str], kind: str) -> str:
    """A picture of that size in pixels; `label` tells it to those who do not see it."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="{kind}" role="img" aria-label="{escape(label)}"'
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    drawn = "".join(body)
    return f'{head} {size} font-size="{TEXT}" fill="currentColor">{drawn}</svg>'


def line(x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    ink = "" if "stroke:" in more else ' stroke="currentColor"'
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"{ink} {more}/>'


def text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {more}>{escape(words)}</text>'


def path(shape: str, more: str = "", tip: str = "") -> str:
    """An outline in SVG's letters; `tip` is shown where the pointer rests on it."""
    attributes = f" {more}" if more else ""
    if not tip:
        return f'<path d="{shape}"{attributes}/>'
    return f'<path d="{shape}"{attributes}><title>{escape(tip)}</title></path>'


def diamond(x: float, y: float, tip: str = "") -> str:
    """The mark of a mean, with its upper corner at (x, y)."""
    return path(f"M{x:g} {y:g}l6 6l-6 6l-6 -6z", tip=tip)


def stroke(style: int, strong: bool = False) -> str:
    """Colour and dash by number: no two of the first 24 stages share both."""
    slot = style % len(LIGHT)
    dash = DASHES[(style // len(LIGHT)) % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'style="stroke:var(--s{slot},{LIGHT[slot]})" stroke-width="{2.6 if strong else 1.5}"{dashed}'
