"""What a reader of PPGN would want to see: samples, and chains on their way."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor


def draw_rows(rows: Sequence[Tensor], labels: Sequence[str], columns: int = 16) -> Figure:
    """Images (N, C, H, W) in [0, 1], one row for each label, the first `columns` of each row."""
    width = max(1, min(columns, max((len(row) for row in rows), default=1)))
    figure = Figure(figsize=(0.5 * width + 1.2, 0.55 * max(1, len(rows))), layout="constrained")
    axes = figure.subplots(max(1, len(rows)), width, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, (row, label) in enumerate(zip(rows, labels, strict=True)):
        for axis, image in zip(axes[line], row, strict=False):
            axis.imshow(image.float().permute(1, 2, 0).squeeze(-1), cmap="gray", vmin=0, vmax=1)
        axes[line, 0].text(-0.15, 0.5, label, fontsize=7, ha="right", va="center", transform=axes[line, 0].transAxes)
    return figure
