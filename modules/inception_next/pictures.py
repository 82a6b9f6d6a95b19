"""Receptive fields and speeds as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor


def receptive_field_picture(field: Tensor) -> Figure:
    """A field (S, S) of gradients as brightness."""
    figure = Figure(figsize=(3.6, 3.6), layout="constrained")
    ax = figure.subplots()
    ax.imshow((field / field.max().clamp_min(1e-30)).sqrt(), cmap="magma", vmin=0, vmax=1)
    ax.set_title("input pixels that move the middle of the last map\n(square root of the gradient)", fontsize=8)
    ax.axis("off")
    return figure


def trade_off_picture(points: Mapping[str, Mapping[str, tuple[float, float]]], title: str) -> Figure:
    """Accuracy against speed: by what was timed and by name, (images per second, top-1 in percent)."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for ax, (label, by_name) in zip(figure.subplots(1, len(points), sharey=True), points.items(), strict=True):
        for name, point in by_name.items():
            ax.plot(*point, "o")
            ax.annotate(name, point, (5, 4), textcoords="offset points", fontsize=8)
        ax.margins(0.2)
        ax.set_xlabel(f"images per second, {label}")
        ax.set_ylabel("top-1 (%)")
    figure.suptitle(title, fontsize=9)
    return figure


def throughput_picture(rows: Mapping[str, Sequence[float]], names: Sequence[str], reference: str, title: str) -> Figure:
    """Bars: for each row, every candidate's throughput over that of the reference."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    ax = figure.subplots()
    for row, (label, values) in enumerate(rows.items()):
        bars = ax.bar([i + 0.27 * (row - 1) for i in range(len(names))], values, 0.25, label=label)
        ax.bar_label(bars, fmt="%.2f", fontsize=8)
    ax.set_xticks(range(len(names)), names)
    ax.set_ylabel(f"throughput, {reference} = 1")
    ax.set_title(title, fontsize=9)
    ax.legend(fontsize=8)
    return figure
