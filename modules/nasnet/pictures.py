"""Cells as pictures."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from modules.nasnet.cells import Graph
from modules.nasnet.space import Space


def cell_picture(graph: Graph) -> Figure:
    """A cell as a picture: inputs below, blocks with their operations, outputs marked."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    depth = dict.fromkeys(range(graph.inputs), 0)
    for b, block in enumerate(graph.blocks):
        depth[graph.inputs + b] = 1 + max(depth[block.first], depth[block.second])
    place: dict[int, tuple[float, float]] = {}
    for level in range(max(depth.values()) + 1):
        there = [k for k, d in depth.items() if d == level]
        for i, k in enumerate(there):
            place[k] = ((i + 0.5) / len(there), float(level))
    for b, block in enumerate(graph.blocks):
        x1, y1 = place[graph.inputs + b]
        for side, k, name in ((-1, block.first, block.first_op), (1, block.second, block.second_op)):
            x0, y0 = place[k]
            axes.plot([x0, x1 + 0.035 * side], [y0, y1 - 0.3], color="0.6", lw=1, zorder=1)
            axes.annotate(name, (x1 + 0.004 * side, y1 - 0.25), ha="right" if side < 0 else "left", fontsize=7)
    for k, (x, y) in place.items():
        if k < graph.inputs:
            label = ("$h_i$", "$h_{i-1}$")[k] if graph.inputs == 2 else f"input {k}"
        else:
            label = f"{k}: {graph.blocks[k - graph.inputs].combine}"
        colour = "tab:blue" if k in graph.outputs else "0.3"
        box = {"boxstyle": "round", "fc": "white", "ec": colour, "lw": 2 if k in graph.outputs else 1}
        axes.annotate(label, (x, y), ha="center", va="center", fontsize=8, bbox=box, zorder=2)
    axes.set(xlim=(0, 1), ylim=(-0.4, max(depth.values()) + 0.4), title="blue: leaves the cell")
    axes.axis("off")
    return figure


def cell_pictures(space: Space, actions: Sequence[int], name: str) -> dict[str, Figure]:
    """The cells of one architecture that were searched, by "<name>, normal" and "<name>, reduction"."""
    genotype = space.decode(actions)
    found = {f"{name}, normal": cell_picture(genotype.normal)}
    if space.reduction is None:
        found[f"{name}, reduction"] = cell_picture(genotype.reduction)
    return found
