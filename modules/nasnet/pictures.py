"""Cells, rewards and schedules as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from modules.nasnet.cells import Graph
from modules.nasnet.networks import DropPath, keep_probability
from modules.nasnet.space import Space


def cell_picture(graph: Graph) -> Figure:
    """A cell as a picture: inputs below, blocks with their operations, outputs marked."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()

    depth = dict.fromkeys(range(graph.inputs), 0)
    for b, block in enumerate(graph.blocks):
        depth[graph.inputs + b] = 1 + max(depth[block.first], depth[block.second])
    position: dict[int, tuple[float, float]] = {}
    for level in range(max(depth.values()) + 1):
        states = [k for k, d in depth.items() if d == level]
        for i, k in enumerate(states):
            position[k] = ((i + 0.5) / len(states), float(level))

    for b, block in enumerate(graph.blocks):
        x1, y1 = position[graph.inputs + b]
        for side, k, name in ((-1, block.first, block.first_op), (1, block.second, block.second_op)):
            x0, y0 = position[k]
            axes.plot([x0, x1 + 0.035 * side], [y0, y1 - 0.3], color="0.6", lw=1, zorder=1)
            axes.annotate(name, (x1 + 0.004 * side, y1 - 0.25), ha="right" if side < 0 else "left", fontsize=7)

    for k, (x, y) in position.items():
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
    figures = {f"{name}, normal": cell_picture(genotype.normal)}
    if space.reduction is None:
        figures[f"{name}, reduction"] = cell_picture(genotype.reduction)
    return figures


def reward_picture(rewards: Tensor, minibatch: int, title: str) -> Figure:
    """Rewards (samples, R) in percent as a search goes on: the mean of each minibatch, one line per replay."""
    means = rewards[: len(rewards) // minibatch * minibatch].unflatten(0, (-1, minibatch)).mean(1)  # (steps, R)
    samples = minibatch * torch.arange(1, len(means) + 1)

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(samples, means, color="C0", alpha=0.25, lw=0.8)
    axes.plot(samples, means.mean(1), color="C0", lw=2)
    axes.set(title=title, xlabel="architectures drawn", ylabel="reward, %")
    return figure


def table_picture(rewards: Tensor, repeated: Tensor, accuracies: Tensor) -> Figure:
    """All rewards (M,) in order, and what the second training of the same architectures reached."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    order = rewards.cpu().argsort()
    for label, values in (
        ("training 1, val images (reward)", rewards),
        ("training 2, val images", repeated),
        ("training 2, test images", accuracies),
    ):
        axes.plot(100 * values.cpu()[order], ".", label=label)
    axes.set(xlabel="architectures, worst reward first", ylabel="accuracy, %")
    axes.legend(fontsize=8)
    return figure


def transfer_picture(scores: Tensor, accuracies: Tensor, selected: float) -> Figure:
    """Accuracies (cells,) on the new data against those in the search; a line at that of the search's own choice."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(100 * scores.cpu(), 100 * accuracies.cpu(), label="cells from the whole ranking")
    axes.axhline(100 * selected, color="C1", label="the cell that PPO found")
    axes.set(xlabel="accuracy in the search, %", ylabel="test accuracy on the new data, %")
    axes.legend(fontsize=8)
    return figure


def top_picture(curves: Mapping[int, Mapping[str, tuple[Sequence[int], Sequence[float]]]]) -> Figure:
    """Fig. 6: for each number of best architectures, every search's (architectures drawn, mean reward in percent)."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    for axes, (number, by_search) in zip(figure.subplots(1, len(curves), sharey=True), curves.items(), strict=True):
        for name, (samples, rewards) in by_search.items():
            axes.plot(samples, rewards, label=name)
        axes.set(title=f"best {number}", xlabel="architectures drawn")
    figure.axes[0].set_ylabel("reward, %")
    figure.axes[0].legend(fontsize=8)
    return figure


def drop_path_picture(cells: int, drop_path: DropPath, constant: bool) -> Figure:
    """The first, the middle and the last cell's keep probability over the course of training."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    times = [t / 20 for t in range(21)]
    for c in sorted({0, cells // 2, cells - 1}):
        progress = [1.0 if constant else t for t in times]
        keep = [keep_probability(c, cells, drop_path.keep, t, drop_path.by_depth) for t in progress]
        axes.plot(times, keep, label=f"cell {c + 1} of {cells}")
    axes.set(xlabel="fraction of training", ylabel="probability that a path is kept", ylim=(0, 1.05))
    axes.legend(fontsize=8)
    return figure
