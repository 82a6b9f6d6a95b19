"""Figures for the report page; images are (C, H, W) in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from modules.off_the_shelf.views import patch_boxes


def show(axes: Any, image: Tensor) -> None:
    axes.imshow(image.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])


def draw_views(views: Sequence[Tensor]) -> Figure:
    """All views of one image in two rows."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    columns = math.ceil(len(views) / 2)
    for number, axes in enumerate(figure.subplots(2, columns).flat):
        axes.axis("off")
        if number < len(views):
            show(axes, views[number])
            axes.set_title(str(number + 1), fontsize=8)
    return figure


def draw_average_precisions(values: Sequence[float], names: Sequence[str]) -> Figure:
    """A bar a label; values in percent."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    axes.bar(range(len(names)), values)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
    axes.set(ylim=(0, 100), ylabel="average precision, %", title=f"mean {np.mean(values):.1f}")
    return figure


def draw_curve(
    accuracy: Tensor, per_class: Tensor, features: Sequence[str], sizes: Sequence[int], classes: Sequence[str]
) -> Figure:
    """Left accuracy (features, sizes) against the number of training images, right the classes (features, classes) at
    the largest; percent."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    width = 0.8 / len(features)
    for number, name in enumerate(features):
        left.plot(sizes, accuracy[number], marker="o", label=name)
        places = torch.arange(per_class.shape[1]) + width * (number - (len(features) - 1) / 2)
        right.bar(places, per_class[number], width)

    left.set_xscale("log")
    left.set_xticks(sizes, [str(n) for n in sizes])
    left.minorticks_off()
    left.set(xlabel="training images", ylabel="right, %", title="one seed")
    left.legend(fontsize=8)

    if len(classes) == per_class.shape[1]:
        right.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=7)
    right.set(ylim=(0, 100), title=f"each class, {sizes[-1]} training images")
    return figure


def draw_ranking(
    queries: Tensor, references: Callable[[Tensor], Tensor], distances: Tensor, relevance: Tensor
) -> Figure:
    """The first references of each query, relevant ones framed.

    Args:
        queries: images (Q, C, H, W).
        references: the images of some of the R references, by number.
        distances, relevance: (Q, R); a relevance of -1 is left out.
    """
    distances = distances.masked_fill(relevance < 0, math.inf)
    shown = min(5, distances.shape[1])
    figure = Figure(figsize=(9, 1.5 * len(queries)), layout="constrained")
    axes = figure.subplots(len(queries), shown + 1, squeeze=False)
    for row, query in enumerate(queries):
        order = distances[row].argsort()
        first = 1 + int(relevance[row][order].gt(0).int().argmax())
        show(axes[row, 0], query)
        axes[row, 0].set_title(f"query; first relevant: {first}", fontsize=7)

        for rank, image in enumerate(references(order[:shown]), 1):
            axis = axes[row, rank]
            number = int(order[rank - 1])
            show(axis, image)
            axis.set_title(f"{rank}: {float(distances[row, number]):.2f}", fontsize=7)
            if int(relevance[row, number]) > 0:
                axis.spines[:].set(color="tab:green", linewidth=4)
    return figure


def draw_matches(query: Tensor, reference: Tensor, nearest: Sequence[int], levels: int) -> Figure:
    """Where the patches of a query (above) and the nearest patches of one of its references lie.

    Args:
        query, reference: images.
        nearest: for each of the query's patches, the number of the reference's.
        levels: of the patches, see views.Patches.
    """
    boxes = patch_boxes(query.shape[-2], query.shape[-1], levels)
    figure = Figure(figsize=(9, 3), layout="constrained")
    for number, column in enumerate(figure.subplots(2, min(len(nearest), 7)).T):
        show_box(column[0], query, boxes[number])
        show_box(column[1], reference, boxes[nearest[number]])
    figure.suptitle("patches of a query (above) and the nearest of its best reference", fontsize=9)
    return figure


def show_box(axes: Any, image: Tensor, box: tuple[int, int, int, int]) -> None:
    """An image with the outline of (top, left, height, width)."""
    top, left, height, width = box
    xs = [left, left + width, left + width, left, left]
    ys = [top, top, top + height, top + height, top]
    show(axes, image)
    axes.plot([x - 0.5 for x in xs], [y - 0.5 for y in ys], color="tab:orange")
