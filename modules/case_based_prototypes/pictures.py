"""Prototypes as the decoder draws them, a prediction explained by them, and W."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor


def draw_prototypes(decoded: Tensor, classes: Sequence[str]) -> Figure:
    """Two rows of prototypes.

    Args:
        decoded: (m, C, H, W) in [0, 1].
        classes: the class that each speaks for.
    """
    figure = Figure(figsize=(9, 3), layout="constrained")
    columns = -(-len(decoded) // 2)
    for number, axis in enumerate(figure.subplots(2, columns, squeeze=False).flat):
        axis.axis("off")
        if number < len(decoded):
            _show(axis, decoded[number], f"{number}: {classes[number]}")
    return figure


def draw_prediction(
    image: Tensor, title: str, reconstruction: Tensor, decoded: Tensor, classes: Sequence[str], distances: Tensor
) -> Figure:
    """One image, its reconstruction and the five prototypes that its code is nearest to.

    Args:
        image, reconstruction: (C, H, W) in [0, 1].
        title: of the image.
        decoded: (m, C, H, W) in [0, 1].
        classes: the class that each prototype speaks for.
        distances: (m,), D of the image.
    """
    nearest = distances.argsort()[:5].tolist()
    figure = Figure(figsize=(9, 2), layout="constrained")
    axes = figure.subplots(1, 2 + len(nearest))
    _show(axes[0], image, title)
    _show(axes[1], reconstruction, "its reconstruction\n")
    for axis, number in zip(axes[2:], nearest, strict=True):
        _show(axis, decoded[number], f"{number}: {classes[number]}\ndistance {float(distances[number]):.2f}")
    return figure


def draw_weights(weight: Tensor, names: Sequence[str]) -> Figure:
    """W (m, K) as a heat map with a dot at each prototype's most negative weight."""
    bound = float(weight.abs().max())
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axis = figure.subplots()
    heat = axis.imshow(weight.T, cmap="RdBu", vmin=-bound, vmax=bound, aspect="auto")
    axis.plot(range(len(weight)), weight.argmin(1), "k.")
    axis.set(xlabel="prototype", xticks=range(len(weight)), yticks=range(len(names)))
    axis.set_yticklabels(names, fontsize=7)
    figure.colorbar(heat, label="W (dot: most negative)")
    return figure


def _show(axis: Any, image: Tensor, title: str) -> None:
    axis.imshow(image.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
    axis.set_title(title, fontsize=8)
    axis.axis("off")
