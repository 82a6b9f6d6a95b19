"""Images on their way through a person, which class becomes which, and what a classifier sees instead of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F


def draw_table(columns: Tensor, titles: Sequence[str], texts: Sequence[Sequence[str]] | None = None) -> Figure:
    """A row for each image, a column for each moment or version of it.

    Args:
        columns: (S, B, 1, H, W) in about [0, 1].
        titles: S of them, above the columns.
        texts: a text below each picture, by column and row.
    """
    moments, count = columns.shape[:2]
    side, gap = columns.shape[-1], columns.shape[-1] // 4
    tiles = F.pad(columns[:, :, 0].cpu().clamp(0, 1), [0, gap, 0, gap], value=1.0)  # (S, B, H + gap, W + gap)
    canvas = tiles.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)

    figure = Figure(figsize=(0.9 * moments, 0.9 * count + 0.5), layout="constrained")
    axis = figure.subplots()
    axis.imshow(canvas, cmap="gray", vmin=0, vmax=1)  # one image: axes for each would take seconds
    axis.set_xticks([(side + gap) * s + side / 2 for s in range(moments)], titles, fontsize=8)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_yticks([])
    axis.spines[:].set_visible(False)
    for s, column in enumerate(texts or []):
        for b, text in enumerate(column):
            place = ((side + gap) * s + side / 2, (side + gap) * b + side + gap / 2)
            axis.text(*place, text, fontsize=7, ha="center", va="center")
    return figure


def draw_classes(labels: Tensor, perceived: Tensor, names: Sequence[str]) -> Figure:
    """How many percent of each class's images are perceived near a training image of each class.

    Args:
        labels: (B,), of the images.
        perceived: (B,), of the training images that they end near.
        names: of the classes.
    """
    count = len(names)
    table = torch.bincount(labels * count + perceived, minlength=count**2).view(count, count).float()
    table = 100 * table / table.sum(1, keepdim=True).clamp(min=1)
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axis = figure.subplots()
    heat = axis.imshow(table, cmap="viridis", vmin=0, vmax=100)
    axis.set_xticks(range(count), names, fontsize=7)
    axis.set_yticks(range(count), names, fontsize=7)
    axis.set(xlabel="class of the training image that a test image ends near", ylabel="label")
    figure.colorbar(heat, label="% of the class's test images")
    return figure


def draw_votes(x: Tensor, labels: Tensor, seen: Tensor, votes: Tensor, names: Sequence[str]) -> Figure:
    """Images with their labels, and what is seen of each with the class that it votes for.

    Args:
        x: (B, 1, H, W) in [0, 1].
        labels: (B,).
        seen: (M, B, 1, H, W).
        votes: (M, B).
        names: of the classes.
    """
    texts = [[f"is {names[c]}" for c in labels.tolist()], *([names[c] for c in vote] for vote in votes.tolist())]
    titles = ["image", *(f"vote {number}" for number in range(1, 1 + len(seen)))]
    return draw_table(torch.cat([x[None].cpu(), seen.cpu()]), titles, texts)
