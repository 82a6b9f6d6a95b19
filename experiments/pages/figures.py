"""Figures of the report as self-contained SVG strings: no script, no id, no outside resource, and no torch.

The same data gives the same string. Ink is `currentColor` and a stage's colour a CSS variable with a fallback, so that
a page decides about light and dark. Every text that comes from data is escaped here; the strings are safe to embed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from experiments.pages.markup import escape
from experiments.pages.numbers import decimals, finite, fixed
from experiments.pages.view import Claim

LIGHT = ("#1f5fa8", "#b4471a", "#1d7a4c", "#7b3f9d", "#94700b", "#0f7480", "#ad2d6b", "#5c6470")
DARK = ("#79b4f2", "#f39a6b", "#6fcf9b", "#c79be6", "#dcb854", "#66cbd6", "#ef8cbb", "#aab3bf")
DASHES = ("", "7 3", "2 2.5")
TEXT = 11  # px; drawings are laid out so that they are never shown smaller than drawn on a phone
TALL = 40  # px, of a box
THIN = 6  # px, of an arrow that passes between boxes
GAP = 12  # px, between what stands one above the other
BETWEEN = 60  # px, between columns
LETTER = 6.3  # px, width of a letter at that size in a wide font, for boxes around text


Curve = Mapping[str, Sequence[float]]  # epoch, mean, low, high: lists of equal length


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
        return [(i * step, fixed(i * step, digits)) for i in range(first, last + 1)]


def _svg(width: float, height: float, label: str, body: Sequence[str], kind: str) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="{kind}" role="img" aria-label="{escape(label)}"'
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    return f'{head} {size} font-size="{TEXT}" fill="currentColor">{"".join(body)}</svg>'


def _line(x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    ink = "" if "stroke:" in more else ' stroke="currentColor"'
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"{ink} {more}/>'


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {more}>{escape(text)}</text>'


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
        points += [claim.published["difference"]] if claim.published else []
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


def difference(claim: Claim, extent: tuple[float, float]) -> str:
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
        x = axis(claim.published["difference"])
        tip = f"<title>published {fixed(claim.published['difference'], digits, True)}</title>"
        body.append(f'<path d="M{x:g} 36l5 -9h-10z" fill="none" stroke="currentColor" stroke-width="1.3">{tip}</path>')
    if claim.difference is not None:
        tip = f"<title>mean {fixed(claim.difference, digits, True)}</title>"
        body.append(f'<path d="M{axis(claim.difference):g} 8l6 6l-6 6l-6 -6z">{tip}</path>')
    for seed, value in zip(claim.seeds, claim.per_seed, strict=True):
        if math.isfinite(value):
            body.append(_dot(axis(value), 31, f"seed {seed}: {fixed(value, digits, True)}"))
    return _svg(width, height, _in_words(claim, digits), body, "difference")


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
            marks.append(_line(x, 3, x, floor, 'stroke-width="1.2" stroke-dasharray="3 2"'))
    elif claim.margin:
        x = axis(claim.margin)
        marks.append(_line(x, 3, x, floor, 'stroke-width="1.4" stroke-dasharray="3 2"'))
    opacity = 0.35 if claim.margin else 0.8
    zero = axis(0)
    return [*marks, _line(zero, 3, zero, floor, f'stroke-width="1.4" opacity="{opacity}"')]


def _scale(axis: Axis, floor: float, count: int) -> list[str]:
    """A horizontal axis with about `count` values."""
    marks = [_line(axis.start, floor, axis.end, floor, 'opacity="0.45"')]
    for value, label in axis.ticks(count):
        marks.append(_line(axis(value), floor, axis(value), floor + 4, 'opacity="0.45"'))
        marks.append(_text(axis(value), floor + 16, label, 'text-anchor="middle" opacity="0.8"'))
    return marks


def _bar(interval: Sequence[float], axis: Axis, extent: tuple[float, float]) -> list[str]:
    """An interval, with an arrowhead where it goes on outside the picture."""
    marks = [_line(axis(interval[0]), 14, axis(interval[1]), 14, 'stroke-width="2"')]
    for end, side in zip(interval, (-1, 1), strict=True):
        x = axis(end)
        if extent[0] <= end <= extent[1]:
            marks.append(_line(x, 10, x, 18, 'stroke-width="2"'))
        else:
            marks.append(f'<path d="M{x + 6 * side:g} 14l{-7 * side} -4.5v9z"/>')
    return marks


def _dot(x: float, y: float, tip: str) -> str:
    """A seed."""
    look = f'style="fill:var(--s0,{LIGHT[0]})" fill-opacity="0.55" stroke="currentColor" stroke-width="0.8"'
    return f'<circle cx="{x}" cy="{y:g}" r="4" {look}><title>{escape(tip)}</title></circle>'


def reach(groups: Sequence[Sequence[float]]) -> tuple[float, float]:
    """One range for all values of all groups, with a margin."""
    points = finite([value for group in groups for value in group]) or [0.0]
    return _padded(min(points), max(points), 0.06)


def values(row: Mapping[str, Any], extent: tuple[float, float]) -> str:
    """One setting of a sweep: a dot per seed, a diamond at the mean, the interval as far as the axis goes.

    Args:
        row: setting, seeds, values, mean, interval (or None).
        extent: the range of the axis, from `reach`.
    """
    width, height, floor = 260, 44, 24
    axis = Axis(*extent, 12, width - 12)
    body = _scale(axis, floor, 6)
    if row["interval"]:
        low, high = map(axis, row["interval"])
        body.append(_line(low, 12, high, 12, 'stroke-width="2"'))
    body.append(f'<path d="M{axis(row["mean"]):g} 6l6 6l-6 6l-6 -6z"/>')
    for seed, value in zip(row["seeds"], row["values"], strict=True):
        body.append(_dot(axis(value), 12, f"seed {seed}: {value:.4g}"))
    told = f"{row['setting']}: mean {row['mean']:.4g} of {len(row['values'])}"
    return _svg(width, height, told, body, "difference")


def _stroke(style: int, strong: bool = False) -> str:
    """Colour and dash by number: no two of the first 24 stages share both."""
    slot = style % len(LIGHT)
    dash = DASHES[(style // len(LIGHT)) % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'style="stroke:var(--s{slot},{LIGHT[slot]})" stroke-width="{2.6 if strong else 1.5}"{dashed}'


def _range(series: Mapping[str, Curve]) -> tuple[float, float]:
    """The last three quarters of each stage: a bad start would press everything else against one edge."""
    points: list[float] = []
    for curve in series.values():
        skip = len(curve["epoch"]) // 4
        points += finite(curve["low"][skip:])
        points += finite(curve["high"][skip:])
    low, high = (min(points), max(points)) if points else (0.0, 1.0)
    pad = 0.05 * (high - low or abs(high) or 1.0)
    return low - pad, high + pad


def curves(metric: str, series: Mapping[str, Curve], styles: Mapping[str, int], strong: Collection[str] = ()) -> str:
    """A metric over epochs, one line (mean over seeds) and band (smallest to largest) for each stage, with a legend.

    Args:
        metric: what the vertical axis shows.
        series: stage -> {epoch, mean, low, high}, lists of equal length.
        styles: stage -> number of its colour and dash, the same in every figure of a page.
        strong: stages drawn thicker and on top: those the paper is about.
    """
    width, plot = 360, 190
    last = max(finite([epoch for curve in series.values() for epoch in curve["epoch"]]), default=1.0)
    across = Axis(0, max(last, 1.0), 44, width - 8)
    up = Axis(*_range(series), plot, 20)
    body = [_text(2, 11, metric, 'font-weight="600"'), *_grid(across, up)]

    # A picture inside the picture clips without needing an id that could occur twice on a page.
    body.append(f'<svg x="0" y="16" width="{width}" height="{plot - 14}" viewBox="0 16 {width} {plot - 14}">')
    for name in sorted(series, key=lambda name: name in strong):  # stable: the strong ones come last, on top
        body += _curve(name, series[name], (across, up), styles[name], name in strong)
    body.append("</svg>")

    longest = max(len(name) for name in series)
    columns = max(1, int((width - 10) // (34 + longest * LETTER)))
    rows = math.ceil(len(series) / columns)
    for index, name in enumerate(series):
        row, column = divmod(index, columns)
        x = 6 + column * (width - 10) / columns
        y = plot + 48 + 17 * row
        body.append(_line(x, y - 4, x + 24, y - 4, _stroke(styles[name], name in strong)))
        body.append(_text(x + 29, y, name, 'font-weight="600"' if name in strong else ""))
    return _svg(width, plot + 44 + 17 * rows, f"{metric} by epoch for {', '.join(series)}", body, "curves")


def _grid(across: Axis, up: Axis) -> list[str]:
    """Values of the metric from left to right, whole epochs below."""
    left, right, bottom = across.start, across.end, up.start
    marks = []
    for value, label in up.ticks(5):
        marks.append(_line(left, up(value), right, up(value), 'opacity="0.15"'))
        marks.append(_text(left - 5, up(value) + 4, label, 'text-anchor="end" opacity="0.8"'))
    for value, label in across.ticks(6):
        if value == int(value):
            marks.append(_text(across(value), bottom + 15, label, 'text-anchor="middle" opacity="0.8"'))
    marks.append(_line(left, bottom, right, bottom, 'opacity="0.45"'))
    marks.append(_text(right, bottom + 29, "epoch", 'text-anchor="end" opacity="0.8"'))
    return marks


def _curve(name: str, curve: Curve, axes: tuple[Axis, Axis], style: int, strong: bool) -> list[str]:
    """The band and the line of a stage; epochs that lack a value are left out."""
    across, up = axes
    points = zip(*(curve[key] for key in ("epoch", "mean", "low", "high")), strict=True)
    whole = [point for point in points if len(finite(point)) == len(point)]
    x = [across(point[0]) for point in whole]
    mean, low, high = ([up.beyond(point[index]) for point in whole] for index in (1, 2, 3))
    edge = _points([*x, *reversed(x)], [*high, *reversed(low)])
    slot = style % len(LIGHT)
    band = f'<polygon points="{edge}" style="fill:var(--s{slot},{LIGHT[slot]})" fill-opacity="0.1"/>'
    line = f'<polyline points="{_points(x, mean)}" fill="none" stroke-linejoin="round" {_stroke(style, strong)}>'
    return [band, f"{line}<title>{escape(name)}</title></polyline>"]


def _points(x: Sequence[float], y: Sequence[float]) -> str:
    return " ".join(f"{a:g},{b:g}" for a, b in zip(x, y, strict=True))


def diagram(boxes: Sequence[Box], styles: Mapping[str, int]) -> str:
    """The stages from left to right, with an arrow from what is needed to what needs it.

    A trained stage has a solid, filled box and a stage that is only tested a dashed, empty one; the note says it too.
    The text keeps its size: a narrow page scrolls the picture instead of shrinking it.
    """
    names = {box.name for box in boxes}
    needs = {box.name: [name for name in box.needs if name in names] for box in boxes}
    layers, routes = _layers(boxes, needs)
    longest = max((max(len(box.name) * 1.17, len(box.note)) for box in boxes), default=0)
    wide = max(78.0, longest * LETTER + 18)
    tallest = max(_layer_height(layer, names) for layer in layers)
    place = _places(layers, names, wide, tallest)

    body = []
    for box in boxes:
        arriving = [route for route in routes if route[-1] == box.name]
        arriving.sort(key=lambda route: place[route[-2]][1])
        for index, route in enumerate(arriving):
            port = (index - (len(arriving) - 1) / 2) * min(9, 30 / len(arriving))
            body.append(_arrow(route, place, wide, port, _stroke(styles[route[0]])))
    for box in boxes:
        body += _box(box, place[box.name], wide)

    width = len(layers) * (wide + BETWEEN) - BETWEEN + 8
    told = [_told(box, needs[box.name]) for box in boxes]
    return _svg(round(width), round(tallest + 8), f"Stages: {'; '.join(told)}", body, "diagram")


def _told(box: Box, needs: Sequence[str]) -> str:
    return f"{box.name} ({box.note})" + (f" needs {', '.join(needs)}" if needs else "")


def _box(box: Box, place: tuple[float, float], wide: float) -> list[str]:
    """A stage's box with its two lines of text."""
    left, middle = place
    look = 'fill-opacity="0.07"' if box.trained else 'fill="none" stroke-dasharray="4 3"'
    size = f'x="{left:g}" y="{middle - TALL / 2:g}" width="{wide:g}" height="{TALL}" rx="5"'
    return [
        f'<rect {size} {look} stroke="currentColor" stroke-opacity="0.7"/>',
        _text(left + 9, middle - 3, box.name, 'font-size="12" font-weight="600"'),
        _text(left + 9, middle + 12, box.note, 'opacity="0.8"'),
    ]


def _key_height(key: str, names: Collection[str]) -> int:
    return TALL if key in names else THIN


def _layer_height(layer: Sequence[str], names: Collection[str]) -> int:
    return sum(_key_height(key, names) for key in layer) + GAP * (len(layer) - 1)


def _places(
    layers: Sequence[Sequence[str]], names: Collection[str], wide: float, tallest: float
) -> dict[str, tuple[float, float]]:
    """Left edge and middle of each key, columns centred beside the tallest."""
    places = {}
    for column, layer in enumerate(layers):
        left = 4 + column * (wide + BETWEEN)
        top = 4 + (tallest - _layer_height(layer, names)) / 2
        for key in layer:
            height = _key_height(key, names)
            places[key] = (left, top + height / 2)
            top += height + GAP
    return places


def _depths(boxes: Sequence[Box], needs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many stages, at most, come before each."""
    depth = dict.fromkeys(needs, 0)
    for _ in boxes:
        for box in boxes:
            depth[box.name] = max([0, *(depth[name] + 1 for name in needs[box.name])])
    return depth


def _layers(boxes: Sequence[Box], needs: Mapping[str, Sequence[str]]) -> tuple[list[list[str]], list[list[str]]]:
    """Columns of keys in an order with few crossings, and each arrow as the keys it passes.

    An arrow over several columns gets a key of its own in those between, so that it passes between boxes, not behind.
    """
    depth = _depths(boxes, needs)
    layers: list[list[str]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
    for box in boxes:
        layers[depth[box.name]].append(box.name)
    routes = []
    for box in boxes:
        for source in needs[box.name]:
            between = range(depth[source] + 1, depth[box.name])
            passed = [f"{source}\n{box.name}\n{column}" for column in between]
            for column, key in zip(between, passed, strict=True):
                layers[column].append(key)
            routes.append([source, *passed, box.name])
    _untangle(layers, routes)
    return layers, routes


def _untangle(layers: list[list[str]], routes: Sequence[Sequence[str]]) -> None:
    """Sort each column by the middle of what it is joined to: to the right, back, and to the right again."""
    joined: dict[str, set[str]] = {}
    for route in routes:
        for a, b in pairwise(route):
            joined.setdefault(a, set()).add(b)
            joined.setdefault(b, set()).add(a)
    for near in (-1, 1, -1):
        columns = range(len(layers))
        for column in columns if near < 0 else reversed(columns):
            if 0 <= column + near < len(layers):
                rank = _rank(layers[column + near])
                middles = _middles(layers[column], rank, joined)
                layers[column].sort(key=middles.__getitem__)


def _middles(layer: Sequence[str], rank: Mapping[str, float], joined: Mapping[str, set[str]]) -> dict[str, float]:
    """The mean rank of what each key is joined to in the next column; its own where there is nothing."""
    middles = {}
    for key, own in _rank(layer).items():
        linked = [rank[other] for other in sorted(joined.get(key, ())) if other in rank]
        middles[key] = sum(linked) / len(linked) if linked else own
    return middles


def _rank(layer: Sequence[str]) -> dict[str, float]:
    """Where each key of a column lies, from 0 at the top to 1."""
    return {key: index / max(1, len(layer) - 1) for index, key in enumerate(layer)}


def _arrow(route: Sequence[str], place: Mapping[str, tuple[float, float]], wide: float, port: float, ink: str) -> str:
    """A smooth line from the right edge of the first to the left edge of the last, with a head."""
    left, y = place[route[0]]
    x = left + wide
    path = [f"M{x:g} {y:g}"]
    for key in route[1:]:
        is_last = key == route[-1]
        left, middle = place[key]
        end = left - 6 if is_last else left
        level = middle + port if is_last else middle
        half = (end - x) / 2
        path.append(f"C{x + half:g} {y:g} {end - half:g} {level:g} {end:g} {level:g}")
        x, y = end, level
        if not is_last:
            x += wide
            path.append(f"H{x:g}")
    colour = ink.split('"')[1].replace("stroke:", "fill:")
    head = f'<path d="M{x + 6:g} {y:g}l-7 -3.5v7z" style="{colour}"/>'
    return f'<path d="{"".join(path)}" fill="none" {ink} opacity="0.75"/>{head}'
