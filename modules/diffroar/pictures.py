"""What a reader would want to see."""

from __future__ import annotations

from matplotlib.figure import Figure
from torch import Tensor


def draw_gradients(images: Tensor, sizes: Tensor) -> Figure:
    """Images (N, C, H, W) in [0, 1], each above the largest |gradient| over channels (N, C, H, W) at every pixel."""
    figure = Figure(figsize=(1.1 * len(images), 4), layout="constrained")
    grid = figure.subplots(2, len(images), squeeze=False)
    for column, (image, size) in enumerate(zip(images, sizes, strict=True)):
        grid[0, column].imshow(image.permute(1, 2, 0).numpy().squeeze(), cmap="gray", vmin=0, vmax=1)
        grid[1, column].imshow(size.amax(0).numpy(), cmap="magma")
    for axis in grid.flat:
        axis.set_axis_off()
    return figure
