"""What the report shows of a segmentation: outlines on slices, and the scores of every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

COLOURS = ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d")
COLUMNS = 4


@dataclass(frozen=True)
class Slice:
    """One level of a scan, (H, W) each.

    Attributes:
        level: counted from the first.
        scan: grey values.
        reference, predicted: labels.
    """

    level: int
    scan: Tensor
    reference: Tensor
    predicted: Tensor


def choose_slice(image: Tensor, reference: Tensor, predicted: Tensor, classes: int) -> Slice:
    """The level that shows most of the classes of the reference.

    Args:
        image: (1, D', H', W') as the network sees it.
        reference, predicted: labels (D, H, W).
        classes: C with background.
    """
    areas = torch.stack([(reference == c).sum((1, 2)).sqrt() for c in range(1, classes)])
    level = int(areas.sum(0).argmax())  # the square root keeps one large lesion from choosing alone
    scan = F.interpolate(image[None], size=list(reference.shape), mode="trilinear")[0, 0]
    return Slice(level, scan[level], reference[level], predicted[level])


def draw_slices(slices: Sequence[Slice], names: Sequence[str]) -> Figure:
    """Each slice with the reference outlined and the prediction dotted.

    Args:
        slices: at most COLUMNS.
        names: of the classes 1, 2, ...
    """
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    axes = figure.subplots(1, COLUMNS)
    for axis in axes:
        axis.axis("off")

    for axis, shown in zip(axes, slices, strict=False):
        axis.imshow(shown.scan, cmap="gray")
        axis.set_title(f"slice {shown.level}", fontsize=8)
        for number in range(1, len(names) + 1):
            colour = COLOURS[(number - 1) % len(COLOURS)]
            for labels, style in ((shown.reference, "solid"), (shown.predicted, "dotted")):
                outline = (labels == number).float()
                if outline.any():
                    axis.contour(outline, levels=[0.5], colors=[colour], linestyles=style, linewidths=1.4)

    for number, name in enumerate(names):
        axes[0].plot([], [], color=COLOURS[number % len(COLOURS)], label=name)
    axes[0].plot([], [], color="black", label="reference")
    axes[0].plot([], [], color="black", linestyle="dotted", label="prediction")
    figure.legend(loc="outside lower center", ncols=len(names) + 2, fontsize=8, frameon=False)
    return figure


def draw_bars(scores: Mapping[str, Sequence[float]], names: Sequence[str]) -> Figure:
    """Two scores of every class side by side.

    Args:
        scores: label -> score in [0, 1] of each class, NaN where there is none.
        names: of the classes.
    """
    figure = Figure(figsize=(9, 3), layout="constrained")
    axis = figure.subplots()
    for shift, (label, heights) in zip((-0.2, 0.2), scores.items(), strict=True):
        bars = axis.bar([i + shift for i in range(len(names))], heights, 0.4, label=label)
        axis.bar_label(bars, fmt="%.2f", fontsize=8)
    axis.set(xticks=range(len(names)), xticklabels=names, ylim=(0, 1.05), ylabel="score")
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure
