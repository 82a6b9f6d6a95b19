"""Accuracy over blocks and time steps, and how alike the blocks are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid


def draw_sweep(places: Sequence[Any], top1: Sequence[float]) -> Figure:
    """A line for each time step over the blocks, beside each other for each pooling. Percent."""
    pools = sorted({place.pool for place in places})
    blocks = list(dict.fromkeys(place.block for place in places))
    figure = Figure(figsize=(4 * len(pools), 3), layout="constrained")
    axes = figure.subplots(1, len(pools), squeeze=False, sharey=True)[0]
    for axis, pool in zip(axes, pools, strict=True):
        for step in sorted({place.step for place in places}):
            chosen = {p.block: v for p, v in zip(places, top1, strict=True) if (p.step, p.pool) == (step, pool)}
            x = [blocks.index(block) for block in chosen]
            axis.plot(x, list(chosen.values()), marker="o", markersize=3, label=f"t = {step}")
        axis.set_xticks(range(len(blocks)), blocks, fontsize=7)
        axis.set_title(f"pooled to {pool} x {pool}", fontsize=9)
        axis.set_xlabel("block")
    axes[0].set_ylabel("test top-1, %")
    axes[0].legend(fontsize=7)
    return figure


def draw_images(images: Tensor) -> Figure:
    """Images (n, C, H, W) in [0, 1] in a square."""
    figure = Figure(figsize=(4, 4), layout="constrained")
    axis = figure.subplots()
    axis.imshow(make_grid(images, math.isqrt(len(images)), padding=1, pad_value=1.0).permute(1, 2, 0))
    axis.axis("off")
    return figure


def draw_similarity(similarity: Tensor, names: Sequence[str]) -> Figure:
    """CKA of each pair, (n, n)."""
    figure = Figure(figsize=(6, 5.5), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(similarity, vmin=0, vmax=1)
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=5)
    axis.set_yticks(range(len(names)), names, fontsize=5)
    figure.colorbar(image, label="linear CKA")
    return figure
