"""What a reader of SPARSE would want to see: images translated into every class."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor


def draw_translations(images: Tensor, translations: Tensor, classes: Sequence[str]) -> Figure:
    """A row for each image (n, C, H, W), in [0, 1]: itself, then its translations (n, K, C, H, W) into each class."""
    n, k = translations.shape[:2]
    figure = Figure(figsize=(0.8 * (k + 1), 0.8 * n + 0.4), layout="constrained")
    grid = figure.subplots(n, k + 1, squeeze=False)
    for row, image, versions in zip(grid, images, translations, strict=True):
        for axes, picture in zip(row, [image, *versions], strict=True):
            axes.imshow(picture.expand(3, -1, -1).permute(1, 2, 0))
            axes.set_axis_off()
    for axes, title in zip(grid[0], ["image", *classes], strict=True):
        axes.set_title(title, fontsize=6)
    return figure
