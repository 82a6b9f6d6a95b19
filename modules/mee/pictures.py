"""What a reader of MaEM-GAN would want to see: generated images, or points."""

from __future__ import annotations

from matplotlib.figure import Figure
from torch import Tensor, nn


def draw_samples(samples: Tensor) -> Figure:
    """Images (N, C, H, W) in [-1, 1], the first 96 of them on one sheet; points (N, 2) as they lie."""
    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    if samples.ndim == 2:
        axes.scatter(samples[:, 0], samples[:, 1], s=4)
        axes.set_aspect("equal")
        axes.set_title(f"{len(samples)} generated points", fontsize=9)
        return figure

    shown = samples[:96].clamp(-1, 1)
    n, _, height, width = shown.shape
    columns = max(1, round(n**0.5))
    rows = -(-n // columns)
    padded = nn.functional.pad((shown + 1) / 2, (1, 1, 1, 1), value=1.0)  # a white line between images
    sheet = padded.new_ones(shown.shape[1], rows * (height + 2), columns * (width + 2))
    for number, image in enumerate(padded):
        top, left = (height + 2) * (number // columns), (width + 2) * (number % columns)
        sheet[:, top : top + height + 2, left : left + width + 2] = image
    axes.imshow(sheet.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
    axes.set_title(f"{n} generated images", fontsize=9)
    return figure
