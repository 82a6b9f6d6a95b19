"""What a reader would want to see."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor


def draw_maps(image: Tensor, boxes: Tensor, maps: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """A row for each network, a column for each method; the first column is the image. Boxes are drawn everywhere.

    Args:
        image: (C, H, W) in [0, 1].
        boxes: (R, 4), x1, y1, x2, y2 in pixels.
        maps: network -> method -> (H, W). A cross marks the largest value.
    """
    methods = list(next(iter(maps.values())))
    figure = Figure(figsize=(1.15 * (len(methods) + 1), 1.25 * len(maps) + 0.3), layout="constrained")
    grid = figure.subplots(len(maps), len(methods) + 1, squeeze=False)
    for row, (name, own) in enumerate(maps.items()):
        grid[row, 0].imshow(image.permute(1, 2, 0).numpy().squeeze(), cmap="gray", vmin=0, vmax=1)
        grid[row, 0].set_ylabel(name, fontsize=8)
        for column, method in enumerate(methods, start=1):
            grid[row, column].imshow(own[method].numpy(), cmap="magma")
            top, left = divmod(int(own[method].argmax()), own[method].shape[1])
            grid[row, column].plot(left, top, "+", color="cyan", markersize=6)
    for column, title in enumerate(["image", *methods]):
        grid[0, column].set_title(title.replace("_", "\n"), fontsize=7)
    for axis in grid.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        for x1, y1, x2, y2 in boxes.tolist():
            corner = (x1 - 0.5, y1 - 0.5)  # a pixel's middle is its number
            axis.add_patch(Rectangle(corner, x2 - x1, y2 - y1, fill=False, edgecolor="lime", linewidth=0.8))
    return figure


def draw_curves(curves: Mapping[str, Mapping[str, Mapping[str, Tensor]]]) -> Figure:
    """Mean probability of the class by share of pixels: a row for each method, insertion beside deletion.

    Args:
        curves: method -> kind -> network -> (T,).
    """
    figure = Figure(figsize=(7, 2.4 * len(curves)), layout="constrained")
    grid = figure.subplots(len(curves), 2, squeeze=False, sharey=True)
    for row, (method, kinds) in enumerate(curves.items()):
        for axis, (kind, networks) in zip(grid[row], kinds.items(), strict=True):
            for name, curve in networks.items():
                axis.plot([100 * n / (len(curve) - 1) for n in range(len(curve))], curve.tolist(), label=name)
            axis.set_title(f"{kind}, {method.replace('_', ' ')}", fontsize=8)
            axis.set_xlabel("pixels, %", fontsize=7)
            axis.tick_params(labelsize=7)
        grid[row, 0].set_ylabel("probability of the class", fontsize=7)
    grid[0, 0].legend(fontsize=7)
    return figure
