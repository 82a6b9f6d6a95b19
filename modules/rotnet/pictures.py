"""What a reader of RotNet would want to see: an image's rotations with their predictions, the first layer's filters."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import make_grid


def draw_rotations(copies: Tensor, probabilities: Tensor, angles: Sequence[int]) -> Figure:
    """The K copies of one image (K, C, S, S) in [0, 1] above what is predicted for each, (K, K)."""
    k = len(angles)
    figure = Figure(figsize=(max(6.0, 1.5 * k), 3), layout="constrained")
    axes = figure.subplots(2, k, squeeze=False)
    for column, (image, angle) in enumerate(zip(copies, angles, strict=True)):
        above, below = axes[:, column]
        above.imshow(image.clamp(0, 1).permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
        above.set_title(f"turned by {angle}°", fontsize=9)
        above.axis("off")

        colours = ["C1" if i == column else "C0" for i in range(k)]  # the right answer stands out
        below.bar(range(k), probabilities[column], color=colours)
        below.set(ylim=(0, 1), yticks=[0, 1] if not column else [], xticks=range(k))
        below.set_xticklabels([f"{a}°" for a in angles], fontsize=7)
    axes[1, 0].set_ylabel("probability", fontsize=8)
    return figure


def draw_filters(weights: Tensor) -> Figure:
    """A convolution's filters (O, C, k, k), each scaled to its own range."""
    nrow = math.ceil(math.sqrt(3 * len(weights)))
    grid = make_grid(weights, nrow, padding=1, normalize=True, scale_each=True, pad_value=1.0)
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    axes.imshow(grid.permute(1, 2, 0))
    axes.set_title(f"the {len(weights)} filters of the first layer, each scaled to its own range", fontsize=9)
    axes.axis("off")
    return figure
