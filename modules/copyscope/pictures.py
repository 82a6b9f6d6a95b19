"""What coalitions make of the same noise, and what each component gets for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid

SHOWN = 10
PLAYER_TITLES = {"lora": "LoRA", "control": "control", "class_word": "class word", "style_word": "style word"}


def draw_images(images: Tensor, columns: int) -> Figure:
    """Images (n, C, H, W) in [0, 1] in rows of so many."""
    figure = Figure(figsize=(6, 6 * -(-len(images) // columns) / columns), layout="constrained")
    axis = figure.subplots()
    axis.imshow(make_grid(images, columns, padding=1, pad_value=1.0).permute(1, 2, 0), interpolation="nearest")
    axis.axis("off")
    return figure


def draw_coalitions(originals: np.ndarray, images: np.ndarray, names: Sequence[str]) -> Figure:
    """A row of images for each coalition, all columns from the same noise; the originals on top.

    Args:
        originals: (N, 3, S, S) uint8.
        images: (coalitions, N, 3, S, S) uint8.
        names: of the coalitions.
    """
    titles = ["originals", *(name.replace("_", " ") for name in names)]
    rows = torch.from_numpy(np.concatenate([originals[None, :SHOWN], images[:, :SHOWN]]))  # (1 + coalitions, n, ...)
    grid = make_grid(rows.flatten(0, 1), rows.shape[1], padding=1, pad_value=255)

    figure = Figure(figsize=(9, 0.75 * len(rows)), layout="constrained")
    axis = figure.subplots()
    axis.imshow(grid.permute(1, 2, 0), interpolation="nearest")
    step = grid.shape[1] / len(rows)
    axis.set_yticks([step * (line + 0.5) for line in range(len(rows))], titles, fontsize=8)
    axis.set_xticks([])
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return figure


def draw_bars(shares: Mapping[str, Any], players: Sequence[str], series: Sequence[str]) -> Figure:
    """Shares of the players over the series (doses), a panel for each way of attribution.

    Args:
        shares: title -> (series, players), percent.
        players, series: their names.
    """
    figure = Figure(figsize=(3.2 * len(shares), 3), layout="constrained")
    axes = figure.subplots(1, len(shares), squeeze=False, sharey=True)[0]
    width = 0.8 / len(players)
    for axis, (title, values) in zip(axes, shares.items(), strict=True):
        for i, player in enumerate(players):
            x = [n + (i - (len(players) - 1) / 2) * width for n in range(len(series))]
            axis.bar(x, [float(row[i]) for row in values], width, label=PLAYER_TITLES.get(player, player))
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set_xticks(range(len(series)), series, fontsize=7)
        axis.set_title(title, fontsize=9)
    axes[0].set_ylabel("share, %")
    axes[-1].legend(fontsize=7)
    return figure
