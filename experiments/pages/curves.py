"""Learning curves: a metric over epochs, a line and a band for each stage. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from experiments.evidence.ran import Curve
from experiments.pages.drawing import LETTER, LIGHT, Axis, line, stroke, svg, text
from experiments.pages.markup import escape
from experiments.pages.numbers import finite


def _range(series: Mapping[str, Curve]) -> tuple[float, float]:
    """The last three quarters of each stage: a bad start would press everything else against one edge."""
    points: list[float] = []
    for curve in series.values():
        skip = len(curve.epoch) // 4
        points += finite(curve.low[skip:])
        points += finite(curve.high[skip:])
    low, high = (min(points), max(points)) if points else (0.0, 1.0)
    pad = 0.05 * (high - low or abs(high) or 1.0)
    return low - pad, high + pad


def draw(metric: str, series: Mapping[str, Curve], styles: Mapping[str, int], strong: Collection[str] = ()) -> str:
    """A metric over epochs, one line (mean over seeds) and band (smallest to largest) for each stage, with a legend.

    Args:
        metric: what the vertical axis shows.
        series: by stage.
        styles: stage -> number of its colour and dash, the same in every figure of a page.
        strong: stages drawn thicker and on top: those the paper is about.
    """
    width, plot = 360, 190
    last = max(finite([epoch for curve in series.values() for epoch in curve.epoch]), default=1.0)
    across = Axis(0, max(last, 1.0), 44, width - 8)
    up = Axis(*_range(series), plot, 20)
    body = [text(2, 11, metric, 'font-weight="600"'), *_grid(across, up)]

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
        body.append(line(x, y - 4, x + 24, y - 4, stroke(styles[name], name in strong)))
        body.append(text(x + 29, y, name, 'font-weight="600"' if name in strong else ""))
    return svg(width, plot + 44 + 17 * rows, f"{metric} by epoch for {', '.join(series)}", body, "curves")


def _grid(across: Axis, up: Axis) -> list[str]:
    """Values of the metric from left to right, whole epochs below."""
    left, right, bottom = across.start, across.end, up.start
    marks = []
    for value, label in up.ticks(5):
        marks.append(line(left, up(value), right, up(value), 'opacity="0.15"'))
        marks.append(text(left - 5, up(value) + 4, label, 'text-anchor="end" opacity="0.8"'))
    for value, label in across.ticks(6):
        if value == int(value):
            marks.append(text(across(value), bottom + 15, label, 'text-anchor="middle" opacity="0.8"'))
    marks.append(line(left, bottom, right, bottom, 'opacity="0.45"'))
    marks.append(text(right, bottom + 29, "epoch", 'text-anchor="end" opacity="0.8"'))
    return marks


def _curve(name: str, curve: Curve, axes: tuple[Axis, Axis], style: int, strong: bool) -> list[str]:
    """The band and the line of a stage; epochs that lack a value are left out."""
    across, up = axes
    points = zip(curve.epoch, curve.mean, curve.low, curve.high, strict=True)
    whole = [point for point in points if len(finite(point)) == len(point)]
    x = [across(epoch) for epoch, _, _, _ in whole]
    mean = [up.beyond(value) for _, value, _, _ in whole]
    low = [up.beyond(value) for _, _, value, _ in whole]
    high = [up.beyond(value) for _, _, _, value in whole]

    edge = _points([*x, *reversed(x)], [*high, *reversed(low)])  # there above the band, and back below it
    slot = style % len(LIGHT)
    band = f'<polygon points="{edge}" style="fill:var(--s{slot},{LIGHT[slot]})" fill-opacity="0.1"/>'
    line = f'<polyline points="{_points(x, mean)}" fill="none" stroke-linejoin="round" {stroke(style, strong)}>'
    return [band, f"{line}<title>{escape(name)}</title></polyline>"]


def _points(x: Sequence[float], y: Sequence[float]) -> str:
    return " ".join(f"{a:g},{b:g}" for a, b in zip(x, y, strict=True))
