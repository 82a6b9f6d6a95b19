"""Accuracy along the chain, labels on their way out of the noise, noise schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

STEPS = 8  # of a chain that are drawn


def draw_chain_accuracy(stations: Sequence[str], scores: Mapping[str, float]) -> Figure:
    """Top-1 of the guesses on the way beside that of the answer and of the shuffled control."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(stations, [scores[f"{name}_top1"] for name in stations], "o-", label="on the way")
    axes.axhline(scores["top1"], color="black", lw=1, label="answer")
    axes.axhline(scores["shuffled_top1"], color="gray", ls=":", label="answer to another image")
    axes.set(ylim=(0, 100), ylabel="test top-1, %")
    axes.legend(fontsize=8)
    return figure


def draw_labels_on_their_way(images: Tensor, names: Sequence[str], products: Sequence[Tensor]) -> Figure:
    """z_t as bars, a row for each image.

    Args:
        images: (n, C, H, W) as stored.
        names: of their classes.
        products: for each step from z_0 on the product of z_t with each class embedding (n, m), which for one-hot is
            z_t itself.
    """
    last = len(products) - 1
    steps = torch.linspace(0, last, min(len(products), STEPS)).round().long().tolist()
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots(len(images), 1 + len(steps), squeeze=False)
    for row, image, name in zip(axes, images, names, strict=True):
        row[0].imshow(image.permute(1, 2, 0), cmap="gray")
        row[0].set_title(name, fontsize=8)
        for ax in row:
            ax.set(xticks=[], yticks=[])
    for column, step in enumerate(steps, 1):
        for row, values in zip(axes, products[step], strict=True):
            row[column].bar(range(len(values)), values)
            row[column].set_ylim(-2.5, 2.5)
        axes[0, column].set_title(f"z after step {step}", fontsize=8)
    return figure


def draw_schedule(t: Sequence[float], abar: Sequence[float], weight: Sequence[float]) -> Figure:
    """abar and the weight of the squared error over t."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    marker = "." if len(t) < 50 else ""
    left, right = figure.subplots(1, 2)
    left.plot(t, abar, marker=marker)
    left.set(xlabel="t", title="abar_t: how much of z_t is label")
    right.semilogy(t, weight, marker=marker)
    right.set(xlabel="t", title="weight of the squared error |uhat - u_y|^2")
    return figure
