"""Figures of the report as self-contained SVG strings: no script, no id, no outside resource, and no torch.

The same data gives the same string. Ink is `currentColor` and a stage's colour a CSS variable with a fallback, so that
a page decides about light and dark. Every text that comes from data is escaped here; the strings are safe to embed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

from experiments.evidence.records import Curve, JudgedClaim

LIGHT = ("#1f5fa8", "#b4471a", "#1d7a4c", "#7b3f9d", "#94700b", "#0f7480", "#ad2d6b", "#5c6470")
DARK = ("#79b4f2", "#f39a6b", "#6fcf9b", "#c79be6", "#dcb854", "#66cbd6", "#ef8cbb", "#aab3bf")
DASHES = ("", "7 3", "2 2.5")
TEXT = 11  # px; drawings are laid out so that they are never shown smaller than drawn on a phone
LETTER = 6.3  # px, width of a letter at that size in a wide font, for boxes around text


@dataclass(frozen=True)
class Box:
    """A stage in the diagram; `note` is the second line, in a word or two."""

    name: str
    needs: Sequence[str]
    trained: bool
    note: str


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

    def ticks(self, count: int) -> list[tuple[float, str]]:
        """At most about `count` round values with their labels."""
        rough = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(i * step, number(i * step, digits)) for i in range(first, last + 1)]


def number(value: float, digits: int, sign: bool = False) -> str:
    """Fixed decimals and a real minus; `sign` writes a plus too. No negative zero."""
    text = f"{abs(value):.{digits}f}"
    zero = not text.strip("0.")
    return ("" if zero else "−" if value < 0 else "+" if sign else "") + text


def decimals(values: Sequence[float | None], two_from: float) -> int:
    """Decimals for numbers that stand together: two if the largest reaches `two_from`, more below."""
    size = max((abs(v) for v in _finite(values)), default=0.0)
    return 2 if size >= two_from else 3 if size >= 0.1 else 4


def _svg(width: float, height: float, label: str, body: Sequence[str], kind: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="{kind}" role="img" aria-label="{escape(label)}"'
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    return f'{head} {size} font-size="{TEXT}" fill="currentColor">{"".join(body)}</svg>'


def _line(x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    ink = "" if "stroke:" in more else ' stroke="currentColor"'
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"{ink} {more}/>'


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {more}>{escape(text)}</text>'


def _finite(values: Sequence[float | None]) -> list[float]:
    return [v for v in values if v is not None and math.isfinite(v)]


def limits(claims: Sequence[JudgedClaim]) -> tuple[float, float]:
    """One range for claims that share a unit, so that their figures can be compared by eye.

    Every seed, zero, margin and band lies inside. An interval may stretch the range threefold, no further: two seeds
    have intervals so wide that nothing else could be seen.
    """
    points = [0.0]
    ends: list[float] = []
    for claim in claims:
        within = claim.within
        points += [*_finite(claim.per_seed), *([claim.margin] if within is None else [-within, within])]
        points += [claim.published.difference] if claim.published else []
        ends += _finite(claim.interval or [])
    low, high = min(points), max(points)
    span = high - low or 1.0
    low, high = min([low, *(max(e, low - span) for e in ends)]), max([high, *(min(e, high + span) for e in ends)])
    pad = 0.05 * (high - low or 1.0)
    return low - pad, high + pad


def span(claim: JudgedClaim, judged: Sequence[JudgedClaim]) -> tuple[float, float]:
    """The range shared by all claims of the same metric and kind, unless this one would fill less than a quarter."""

    def kind(item: JudgedClaim) -> tuple[str, bool]:
        return item.better.partition("/")[2], item.within is None

    own, shared = limits([claim]), limits([c for c in judged if kind(c) == kind(claim)])
    return shared if 4 * (own[1] - own[0]) > shared[1] - shared[0] else own


def difference(claim: JudgedClaim, seeds: Sequence[int], extent: tuple[float, float]) -> str:
    """A claim's paired differences: one dot per seed, the mean with its interval, and the line that decides.

    Args:
        claim: as judged: per_seed, difference, interval (or None), margin, within (or None), in the metric's unit.
        seeds: one for each value of per_seed, for the tooltips.
        extent: the range of the axis, from `span`.
    """
    width, height, floor = 260, 62, 42
    axis = Axis(*extent, 10, width - 10)
    mean, interval, within = claim.difference, claim.interval, claim.within
    body = []
    if within is not None:
        left, right = axis(-within), axis(within)
        body.append(f'<rect x="{left}" y="3" width="{right - left:g}" height="{floor - 3}" opacity="0.12"/>')
        body += [_line(x, 3, x, floor, 'stroke-width="1.2" stroke-dasharray="3 2"') for x in (left, right)]
    elif claim.margin:
        x = axis(claim.margin)
        body.append(_line(x, 3, x, floor, 'stroke-width="1.4" stroke-dasharray="3 2"'))
    body.append(_line(axis(0), 3, axis(0), floor, f'stroke-width="1.4" opacity="{0.35 if claim.margin else 0.8}"'))
    body.append(_line(10, floor, width - 10, floor, 'opacity="0.45"'))
    for value, label in axis.ticks(7):
        body.append(_line(axis(value), floor, axis(value), floor + 4, 'opacity="0.45"'))
        body.append(_text(axis(value), floor + 16, label, 'text-anchor="middle" opacity="0.8"'))
    digits = decimals([mean, *(interval or [])], two_from=1)
    words = "no interval"
    if interval:
        words = f"interval {number(interval[0], digits, True)} to {number(interval[1], digits, True)}"
        body.append(_line(axis(interval[0]), 14, axis(interval[1]), 14, 'stroke-width="2"'))
        for end, side in zip(interval, (-1, 1), strict=True):
            x = axis(end)
            if extent[0] <= end <= extent[1]:
                body.append(_line(x, 10, x, 18, 'stroke-width="2"'))
            else:  # the interval goes on outside the picture
                body.append(f'<path d="M{x + 6 * side:g} 14l{-7 * side} -4.5v9z"/>')
    said = claim.published
    if said is not None:
        x = axis(said.difference)
        tip = f"<title>published {number(said.difference, digits, True)}</title>"
        body.append(f'<path d="M{x:g} 36l5 -9h-10z" fill="none" stroke="currentColor" stroke-width="1.3">{tip}</path>')
    if mean is not None:
        x = axis(mean)
        body.append(f'<path d="M{x:g} 8l6 6l-6 6l-6 -6z"><title>mean {number(mean, digits, True)}</title></path>')
    for seed, value in zip(seeds, claim.per_seed, strict=True):
        if math.isfinite(value):
            tip = f"<title>seed {seed}: {number(value, digits, True)}</title>"
            body.append(f'<circle cx="{axis(value)}" cy="31" r="4" style="fill:var(--s0,{LIGHT[0]})" ')
            body.append(f'fill-opacity="0.55" stroke="currentColor" stroke-width="0.8">{tip}</circle>')
    told = f"mean {number(mean, digits, True)}, " if mean is not None else ""
    label = f"{claim.name}: {len(claim.per_seed)} paired differences, {told}{words}"
    return _svg(width, height, label, body, "difference")


def reach(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """One range for all values of all groups, with a margin."""
    points = _finite([value for group in groups for value in group]) or [0.0]
    pad = 0.06 * (max(points) - min(points) or 1.0)
    return min(points) - pad, max(points) + pad


def values(row: Mapping[str, Any], extent: tuple[float, float]) -> str:
    """One setting of a sweep: a dot per seed, a diamond at the mean, the interval as far as the axis goes.

    Args:
        row: setting, seeds, values, mean, interval (or None).
        extent: the range of the axis, from `reach`.
    """
    width, height, floor = 260, 44, 24
    axis = Axis(*extent, 12, width - 12)
    body = [_line(12, floor, width - 12, floor, 'opacity="0.45"')]
    for value, label in axis.ticks(6):
        body.append(_line(axis(value), floor, axis(value), floor + 4, 'opacity="0.45"'))
        body.append(_text(axis(value), floor + 16, label, 'text-anchor="middle" opacity="0.8"'))
    if row["interval"]:
        body.append(_line(axis(row["interval"][0]), 12, axis(row["interval"][1]), 12, 'stroke-width="2"'))
    body.append(f'<path d="M{axis(row["mean"]):g} 6l6 6l-6 6l-6 -6z"/>')
    for seed, value in zip(row["seeds"], row["values"], strict=True):
        tip = f"<title>seed {seed}: {value:.4g}</title>"
        body.append(f'<circle cx="{axis(value)}" cy="12" r="4" style="fill:var(--s0,{LIGHT[0]})" ')
        body.append(f'fill-opacity="0.55" stroke="currentColor" stroke-width="0.8">{tip}</circle>')
    return _svg(width, height, f"{row['setting']}: mean {row['mean']:.4g} of {len(row['values'])}", body, "difference")


def _stroke(style: int, strong: bool = False) -> str:
    """Colour and dash by number: no two of the first 24 stages share both."""
    slot = style % len(LIGHT)
    dash = DASHES[(style // len(LIGHT)) % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'style="stroke:var(--s{slot},{LIGHT[slot]})" stroke-width="{2.6 if strong else 1.5}"{dashed}'


def _range(series: Mapping[str, Curve]) -> tuple[float, float]:
    """The last three quarters of each stage: a bad start would press everything else against one edge."""
    kept: list[float] = []
    for curve in series.values():
        skip = len(curve.epoch) // 4
        kept += _finite(curve.low[skip:]) + _finite(curve.high[skip:])
    low, high = (min(kept), max(kept)) if kept else (0.0, 1.0)
    pad = 0.05 * (high - low or abs(high) or 1.0)
    return low - pad, high + pad


def curves(
    metric: str,
    series: Mapping[str, Curve],
    styles: Mapping[str, int],
    strong: Collection[str] = (),
) -> str:
    """A metric over epochs, one line (mean over seeds) and band (smallest to largest) for each stage, with a legend.

    Args:
        metric: what the vertical axis shows.
        series: stage -> its curve.
        styles: stage -> number of its colour and dash, the same in every figure of a page.
        strong: stages drawn thicker and on top: those the paper is about.
    """
    width, plot = 360, 190
    longest = max(len(name) for name in series)
    columns = max(1, int((width - 10) // (34 + longest * LETTER)))
    rows = math.ceil(len(series) / columns)
    height = plot + 44 + 17 * rows
    last = max(_finite([e for c in series.values() for e in c.epoch]), default=1.0)
    across, up = Axis(0, max(last, 1.0), 44, width - 8), Axis(*_range(series), plot, 20)
    body = [_text(2, 11, metric, 'font-weight="600"')]
    for value, label in up.ticks(5):
        body.append(_line(44, up(value), width - 8, up(value), 'opacity="0.15"'))
        body.append(_text(39, up(value) + 4, label, 'text-anchor="end" opacity="0.8"'))
    for value, label in across.ticks(6):
        if value == int(value):
            body.append(_text(across(value), plot + 15, label, 'text-anchor="middle" opacity="0.8"'))
    body.append(_line(44, plot, width - 8, plot, 'opacity="0.45"'))
    body.append(_text(width - 8, plot + 29, "epoch", 'text-anchor="end" opacity="0.8"'))
    drawn = sorted(series, key=lambda name: name in strong)  # stable: the strong ones come last, on top
    # A picture inside the picture clips without needing an id that could occur twice on a page.
    body.append(f'<svg x="0" y="16" width="{width}" height="{plot - 14}" viewBox="0 16 {width} {plot - 14}">')
    scale = (up.end - up.start) / (up.high - up.low)
    for name in drawn:
        curve = series[name]
        known = [p for p in zip(curve.epoch, curve.mean, curve.low, curve.high, strict=True) if _whole(p)]
        x = [across(p[0]) for p in known]
        mean, low, high = ([round(up.start + (p[i] - up.low) * scale, 1) for p in known] for i in (1, 2, 3))
        slot = styles[name] % len(LIGHT)
        edge = _points([*x, *reversed(x)], [*high, *reversed(low)])
        body.append(f'<polygon points="{edge}" style="fill:var(--s{slot},{LIGHT[slot]})" fill-opacity="0.1"/>')
        line = f'<polyline points="{_points(x, mean)}" fill="none" stroke-linejoin="round"'
        body.append(f"{line} {_stroke(styles[name], name in strong)}><title>{escape(name)}</title></polyline>")
    body.append("</svg>")
    for index, name in enumerate(series):
        x0 = 6 + (index % columns) * (width - 10) / columns
        y0 = plot + 48 + 17 * (index // columns)
        body.append(_line(x0, y0 - 4, x0 + 24, y0 - 4, _stroke(styles[name], name in strong)))
        body.append(_text(x0 + 29, y0, name, 'font-weight="600"' if name in strong else ""))
    return _svg(width, height, f"{metric} by epoch for {', '.join(series)}", body, "curves")


def _whole(point: Sequence[float | None]) -> bool:
    return len(_finite(point)) == len(point)


def _points(x: Sequence[float], y: Sequence[float]) -> str:
    return " ".join(f"{a:g},{b:g}" for a, b in zip(x, y, strict=True))


def diagram(boxes: Sequence[Box], styles: Mapping[str, int]) -> str:
    """The stages from left to right, with an arrow from what is needed to what needs it.

    A trained stage has a solid, filled box and a stage that is only tested a dashed, empty one; the note says it too.
    The text keeps its size: a narrow page scrolls the picture instead of shrinking it.
    """
    names = {box.name for box in boxes}
    needs = {box.name: [n for n in box.needs if n in names] for box in boxes}
    depth = dict.fromkeys(names, 0)
    for _ in boxes:
        for box in boxes:
            depth[box.name] = max([0, *(depth[n] + 1 for n in needs[box.name])])
    layers, routes = _layers(boxes, needs, depth)
    wide = max(78.0, max((max(len(b.name) * 1.17, len(b.note)) * LETTER for b in boxes), default=0) + 18)
    tall, gap, between = 40, 12, 60
    heights = [sum(tall if key in names else 6 for key in layer) + gap * (len(layer) - 1) for layer in layers]
    height, width = max(heights) + 8, len(layers) * (wide + between) - between + 8
    place: dict[str, tuple[float, float]] = {}  # left edge and middle
    for column, layer in enumerate(layers):
        top = 4 + (max(heights) - heights[column]) / 2
        for key in layer:
            size = tall if key in names else 6
            place[key] = (4 + column * (wide + between), top + size / 2)
            top += size + gap
    body = []
    for box in boxes:
        arriving = sorted((r for r in routes if r[-1] == box.name), key=lambda r: place[r[-2]][1])
        for index, route in enumerate(arriving):
            port = (index - (len(arriving) - 1) / 2) * min(9, 30 / len(arriving))
            body.append(_arrow(route, place, wide, port, _stroke(styles[route[0]])))
    for box in boxes:
        left, middle = place[box.name]
        solid = 'fill-opacity="0.07"' if box.trained else 'fill="none" stroke-dasharray="4 3"'
        rect = f'<rect x="{left:g}" y="{middle - tall / 2:g}" width="{wide:g}" height="{tall}" rx="5"'
        body.append(f'{rect} {solid} stroke="currentColor" stroke-opacity="0.7"/>')
        body.append(_text(left + 9, middle - 3, box.name, 'font-size="12" font-weight="600"'))
        body.append(_text(left + 9, middle + 12, box.note, 'opacity="0.8"'))
    told = [f"{b.name} ({b.note})" + (f" needs {', '.join(needs[b.name])}" if needs[b.name] else "") for b in boxes]
    return _svg(round(width), round(height), f"Stages: {'; '.join(told)}", body, "diagram")


def _layers(
    boxes: Sequence[Box], needs: Mapping[str, Sequence[str]], depth: Mapping[str, int]
) -> tuple[list[list[str]], list[list[str]]]:
    """Columns of keys in an order with few crossings, and each arrow as the keys it passes.

    An arrow over several columns gets a key of its own in those between, so that it passes between boxes, not behind.
    """
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
    for box in boxes:
        layers[depth[box.name]].append(box.name)
    routes = []
    for box in boxes:
        for source in needs[box.name]:
            passed = [f"{source}\n{box.name}\n{column}" for column in range(depth[source] + 1, depth[box.name])]
            for column, key in enumerate(passed, depth[source] + 1):
                layers[column].append(key)
            routes.append([source, *passed, box.name])
    joined: dict[str, set[str]] = {}
    for route in routes:
        for a, b in pairwise(route):
            joined.setdefault(a, set()).add(b)
            joined.setdefault(b, set()).add(a)
    columns = range(len(layers))
    for near, order in ((-1, columns), (1, reversed(columns)), (-1, columns)):
        for column in order:
            if 0 <= column + near < len(layers):
                rank, own = _rank(layers[column + near]), _rank(layers[column])
                middle = {}
                for key in layers[column]:
                    linked = [rank[k] for k in sorted(joined.get(key, ())) if k in rank]
                    middle[key] = sum(linked) / len(linked) if linked else own[key]
                layers[column].sort(key=middle.__getitem__)
    return layers, routes


def _rank(layer: Sequence[str]) -> dict[str, float]:
    """Where each key of a column lies, from 0 at the top to 1."""
    return {key: index / max(1, len(layer) - 1) for index, key in enumerate(layer)}


def _arrow(route: Sequence[str], place: Mapping[str, tuple[float, float]], wide: float, port: float, ink: str) -> str:
    """A smooth line from the right edge of the first to the left edge of the last, with a head."""
    x, y = place[route[0]][0] + wide, place[route[0]][1]
    path = [f"M{x:g} {y:g}"]
    for key in route[1:]:
        left, middle = place[key]
        end, level = (left - 6, middle + port) if key == route[-1] else (left, middle)
        half = (end - x) / 2
        path.append(f"C{x + half:g} {y:g} {end - half:g} {level:g} {end:g} {level:g}")
        x, y = end, level
        if key != route[-1]:
            x += wide
            path.append(f"H{x:g}")
    colour = ink.split('"')[1].replace("stroke:", "fill:")
    head = f'<path d="M{x + 6:g} {y:g}l-7 -3.5v7z" style="{colour}"/>'
    return f'<path d="{"".join(path)}" fill="none" {ink} opacity="0.75"/>{head}'
