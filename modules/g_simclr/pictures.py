"""What a reader of G-SimCLR would want to see: reconstructions and clusters."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor


def draw_reconstructions(images: Tensor, reconstructions: Tensor) -> Figure:
    """Images (B, C, H, W) in [0, 1] above what the autoencoder makes of them."""
    return _rows([images, reconstructions], ["image", "reconstruction"])


def draw_clusters(clusters: Sequence[Tensor], purities: Sequence[float]) -> Figure:
    """A row of images (B, C, H, W) in [0, 1] for each cluster, and the share of its most frequent class in percent."""
    return _rows(clusters, [f"{purity:.0f}% one class" for purity in purities])


def _rows(rows: Sequence[Tensor], names: Sequence[str]) -> Figure:
    columns = max(map(len, rows))
    figure = Figure(figsize=(0.8 * columns + 1, 0.9 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, images, name in zip(axes, rows, names, strict=True):
        for axis in line:
            axis.axis("off")
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
        line[0].set_title(name, fontsize=8, loc="left")
    return figure
