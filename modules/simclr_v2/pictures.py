"""What a reader of SimCLR v2 would want to see: which images the representation holds for alike."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor


def nearest(h: Tensor, count: int) -> Tensor:
    """Rows of the `count` most similar others of each row of unit vectors (N, d): (N, count)."""
    similarities = (h @ h.T).fill_diagonal_(-2)
    return similarities.topk(count, dim=1).indices


def draw_views(first: Tensor, second: Tensor, count: int = 10) -> Figure:
    """The two views of up to `count` images, one above the other. (N, C, S, S) in [0, 1] each."""
    count = min(count, len(first))
    figure = Figure(figsize=(1.0 * count, 2.3), layout="constrained")
    axes = figure.subplots(2, count, squeeze=False)
    for row, views, name in zip(axes, (first, second), ("first view", "second view"), strict=True):
        for place, view in zip(row, views[:count], strict=True):
            place.imshow(view.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
            place.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, fontsize=8)
    return figure


def draw_neighbours(images: Tensor, h: Tensor, labels: Tensor, names: Sequence[str], count: int = 6) -> Figure:
    """An image of each of up to 8 classes, beside it those nearest in h. (N, C, S, S) in [0, 1], (N, d) unit vectors.

    A frame around a neighbour says that it is of another class.
    """
    shown = [int((labels == label).nonzero()[0, 0]) for label in labels.unique()[:8]]
    count = min(count, len(images) - 1)
    neighbours = nearest(h, count)
    figure = Figure(figsize=(1.0 * (count + 2), 1.0 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), count + 1, squeeze=False)
    for row, image in zip(axes, shown, strict=True):
        for place, index in enumerate([image, *neighbours[image].tolist()]):
            row[place].imshow(images[index].permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
            row[place].set(xticks=[], yticks=[])
            wrong = labels[index] != labels[image]
            for spine in row[place].spines.values():
                spine.set(visible=bool(wrong), color="C3", linewidth=2)
        row[0].set_ylabel(names[int(labels[image])], fontsize=7)
    axes[0, 0].set_title("image", fontsize=8)
    if count:
        axes[0, 1].set_title("nearest in h", fontsize=8)
    return figure
