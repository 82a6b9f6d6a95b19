"""What a reader of CDA would want to see: the images that were recovered, and how a recovery went."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

COLUMNS = 10


def draw_images(images: Tensor, labels: Tensor, classes: Sequence[str]) -> Figure:
    """A row for each of the first ten classes with its first ten images; uint8 (N, C, H, W), labels (N,)."""
    shown = [images[labels == label][:COLUMNS] for label in range(min(COLUMNS, len(classes)))]
    columns = max(len(row) for row in shown)
    figure = Figure(figsize=(1 + 0.7 * columns, 0.75 * len(shown)), layout="constrained")
    grid = figure.subplots(len(shown), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for row, (own, name) in enumerate(zip(shown, classes, strict=False)):
        grid[row, 0].set_title(name, fontsize=7, loc="left", pad=2)
        for axes, image in zip(grid[row], own, strict=False):
            axes.imshow(image.permute(1, 2, 0), cmap="gray", vmin=0, vmax=255)
    return figure


def draw_trace(trace: Tensor, bounds: Sequence[float]) -> Figure:
    """CE and R_BN over a recovery, from sums (bins, 3) of both and their count, above the crops' smallest area m(t)."""
    there = trace[:, 2] > 0
    means = trace[there, :2] / trace[there, 2:]  # (bins, 2)
    progress = there.nonzero().flatten() / len(trace)

    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, values, name in zip(figure.subplots(1, 3), [*means.T, None], ["CE", "R_BN", "m(t)"], strict=True):
        if values is None:
            axes.plot([i / len(bounds) for i in range(len(bounds))], bounds)
            axes.set_ylim(0, 1.05)
        else:
            axes.semilogy(progress, values.clamp(min=1e-4))
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("share of the steps", fontsize=8)
    return figure
