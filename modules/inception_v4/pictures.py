"""Mistakes, curves and activations as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor


def mistakes_picture(x: Tensor, y: Tensor, p: Tensor, spec: Any, count: int = 8) -> Figure | None:
    """The images that the network is surest of among those it gets wrong; None where it gets all right.

    Args:
        x, y: normalised images (B, C, H, W) and labels (B,).
        p: the network's probabilities (B, classes).
        spec: the dataset's mean, std and names of classes.
        count: of images at most.
    """
    sure, guess = p.max(-1)
    order = sure.masked_fill(guess == y, -1).argsort(descending=True)[:count]
    wrong = [int(i) for i in order if guess[i] != y[i]]
    if not wrong:
        return None

    mean = torch.tensor(spec.mean).view(-1, 1, 1)
    std = torch.tensor(spec.std).view(-1, 1, 1)
    figure = Figure(figsize=(9, 1.9), layout="constrained")
    for ax, i in zip(figure.subplots(1, len(wrong), squeeze=False)[0], wrong, strict=True):
        ax.imshow((x[i] * std + mean).clamp(0, 1).permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
        guessed = spec.classes[int(guess[i])]
        label = spec.classes[int(y[i])]
        ax.set_title(f"{guessed} {float(sure[i]):.2f}\nis {label}", fontsize=8)
        ax.axis("off")
    return figure


def curves_picture(curves: Mapping[str, Tensor]) -> Figure:
    """Validation errors (epochs,) in percent, epoch by epoch."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.subplots()
    for name, curve in curves.items():
        ax.plot(range(1, len(curve) + 1), curve, marker="o", markersize=3, label=name)
    ax.set(xlabel="epoch", ylabel="validation error, %", ylim=(0, 100))
    ax.legend(fontsize=8)
    return figure


def growth_picture(deviations: Mapping[float, Tensor]) -> Figure:
    """Standard deviations (layers,) of the activations layer by layer, for every s."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    ax = figure.subplots()
    for scale, by_layer in deviations.items():
        ax.plot(by_layer, marker="o", markersize=3, label=f"s = {scale:g}")
    ax.set(xlabel="layers after the stem", ylabel="standard deviation", ylim=(0, None))
    ax.legend(fontsize=8)
    return figure


def crops_picture(accuracies: Mapping[str, Tensor]) -> Figure:
    """Accuracy (views,) in percent against how many of the views are averaged."""
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    ax = figure.subplots()
    for name, by_count in accuracies.items():
        ax.plot(range(1, len(by_count) + 1), by_count, label=name)
    ax.set(xlabel="number of crops", ylabel="top-1, %")
    ax.legend(fontsize=8)
    return figure
