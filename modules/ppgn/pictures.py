"""What a reader of PPGN would want to see: samples, and chains on their way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

WHITE = 1.0


def draw_rows(rows: Sequence[Tensor], labels: Sequence[str], columns: int = 16) -> Figure:
    """Images (N, C, H, W) in [0, 1], one row for each label, the first `columns` of each row."""
    width = max(1, min(columns, max((len(row) for row in rows), default=1)))
    figure = Figure(figsize=(0.5 * width + 1.2, 0.55 * max(1, len(rows))), layout="constrained")
    axis = figure.subplots()
    axis.set_xticks([])
    for spine in axis.spines.values():
        spine.set_visible(False)
    if not rows:
        axis.set_yticks([])
        return figure

    shape = next(row.shape[1:] for row in rows)
    tiles = torch.full((len(rows), width, *shape), WHITE)
    for tile, row in zip(tiles, rows, strict=True):
        shown = row[:width].float().cpu()
        tile[: len(shown)] = shown
    grid = make_grid(tiles.flatten(0, 1), width, padding=1, pad_value=WHITE)  # (3, height, width), grey repeated
    axis.imshow(grid.permute(1, 2, 0).clamp(0, 1), interpolation="nearest")

    step = grid.shape[1] / len(rows)
    axis.set_yticks([step * (line + 0.5) for line in range(len(rows))], labels, fontsize=7)
    axis.tick_params(length=0)
    return figure
