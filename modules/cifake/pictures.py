"""What a reader would want to see: the grid of topologies, and maps of real and generated pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from modules.cifake.networks import Topology


def draw_grid(scores: Sequence[tuple[Topology, float]], chosen: Topology) -> Figure:
    """Accuracy on validation pictures: filters by layers on the left, units by dense layers on the right.

    Args:
        scores: topologies with their accuracy, percent.
        chosen: marked with a frame.
    """
    bare = [(topology, acc) for topology, acc in scores if not topology.dense]
    headed = [(topology, acc) for topology, acc in scores if topology.dense]
    lowest, highest = min(acc for _, acc in scores), max(acc for _, acc in scores)
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots(1, 2, width_ratios=[1, 2])
    image = None
    for axis, part, names in (
        (axes[0], bare, ("filters", "convolutions")),
        (axes[1], headed, ("units", "dense")),
    ):
        if not part:
            axis.set_axis_off()
            continue
        columns, rows = (sorted({getattr(topology, name) for topology, _ in part}) for name in names)
        table = np.full((len(rows), len(columns)), np.nan)
        for topology, acc in part:
            place = rows.index(getattr(topology, names[1])), columns.index(getattr(topology, names[0]))
            table[place] = acc
            bold = "bold" if topology == chosen else "normal"
            axis.text(place[1], place[0], f"{acc:.1f}", ha="center", va="center", color="w", fontsize=7, weight=bold)
        image = axis.imshow(table, vmin=lowest, vmax=max(highest, lowest + 1e-3), cmap="viridis", aspect="auto")
        axis.set_xticks(range(len(columns)), columns, fontsize=7)
        axis.set_yticks(range(len(rows)), rows, fontsize=7)
        axis.set_xlabel(f"{names[0]}", fontsize=8)
        axis.set_ylabel(f"{names[1]} layers", fontsize=8)
    axes[0].set_title(f"chosen: {chosen}", fontsize=8, loc="left")
    if image is not None:
        figure.colorbar(image, ax=list(axes), label="validation accuracy, %")
    return figure


def draw_maps(groups: Mapping[str, Mapping[str, Any]], outlines: Mapping[str, Tensor]) -> Figure:
    """Three rows a group: pictures, evidence of "generated" over them, evidence of "real" over them.

    Args:
        groups: kind of picture -> {"image": (N, 3, H, W) in [0, 1], "fake": (N, H, W), "real": (N, H, W) in [0, 1]}.
        outlines: kind of picture -> objects (N, H, W) bool, drawn as a contour.
    """
    count = max(len(group["image"]) for group in groups.values())
    figure = Figure(figsize=(1.05 * count + 0.9, 3.2 * len(groups)), layout="constrained")
    grid = figure.subplots(3 * len(groups), count, squeeze=False)
    for number, (kind, group) in enumerate(groups.items()):
        for column in range(count):
            for line, name in enumerate(("image", "fake", "real")):
                axis = grid[3 * number + line, column]
                axis.set_xticks([])
                axis.set_yticks([])
                if column >= len(group["image"]):
                    axis.set_axis_off()
                    continue
                if column == 0:
                    axis.set_ylabel(f"{kind} picture" if name == "image" else f"evidence\nof {name}", fontsize=7)
                image = group["image"][column].permute(1, 2, 0).numpy()
                axis.imshow(image if name == "image" else image.mean(2), cmap="gray", vmin=0, vmax=1)
                if name != "image":
                    axis.imshow(group[name][column].numpy(), cmap="magma", vmin=0, vmax=1, alpha=0.7)
                axis.contour(outlines[kind][column].float().numpy(), [0.5], colors="cyan", linewidths=0.7)
    return figure
