"""What the report shows of a chain of tasks: accuracy as tasks arrive, who is taken for whom, and the graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

MOST_NAMED = 20  # classes; more names than that cannot be read


def draw_accuracy(seen: Tensor, by_task: Tensor) -> Figure:
    """Accuracy after each task, on all classes seen and on those of each task.

    Args:
        seen, by_task: percent, (T,) and (T, T), see TaskHistory.
    """
    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    tasks = len(seen)

    left.plot(range(tasks), seen, marker="o")
    left.set(title="all classes seen", xlabel="task", ylabel="top-1, %", ylim=(0, 100))

    for j in range(tasks):
        right.plot(range(j, tasks), by_task[j:, j], marker="o", label=f"task {j}")
    right.set(title="classes of each task", xlabel="task", ylim=(0, 100))
    if tasks <= 8:
        right.legend(fontsize=7)

    for axes in (left, right):
        axes.set_xticks(range(0, tasks, 1 + tasks // 12))
    return figure


def draw_confusion(confusion: Tensor, tasks: Sequence[int], names: Sequence[str]) -> Figure:
    """The confusion matrix with lines between tasks, the thickest before the last one.

    Args:
        confusion: (C, C) counts, row true, column predicted.
        tasks: classes of each task.
        names: of the C classes.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    shares = confusion / confusion.sum(1, keepdim=True).clamp(min=1)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="magma_r")

    borders = torch.tensor(tasks).cumsum(0)[:-1].tolist()
    for border in borders:
        width = 2.0 if border == borders[-1] else 0.7
        axes.axhline(border - 0.5, color="tab:blue", lw=width)
        axes.axvline(border - 0.5, color="tab:blue", lw=width)

    axes.set(xlabel="predicted", ylabel="true")
    if len(names) <= MOST_NAMED:
        axes.set_xticks(range(len(names)), names, rotation=60, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
    figure.colorbar(image, label="share of the true class")
    return figure


def draw_graph(edges: Tensor, unrotated: Tensor, tasks: Sequence[int], names: Sequence[str]) -> Figure:
    """Edges between coding vectors of rotation 0 as a ring of classes, and all edges as a matrix.

    Args:
        edges: (4 C, 4 C) strengths.
        unrotated: (C, C) strengths between those of rotation 0.
        tasks: classes of each task.
        names: of the C classes.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    ring, matrix = figure.subplots(1, 2)
    classes = len(unrotated)

    angle = 2 * torch.pi * torch.arange(classes) / classes
    x = angle.cos()
    y = angle.sin()
    for i, j in unrotated.triu(1).nonzero().tolist():
        strength = float(unrotated[i, j])
        ring.plot(x[[i, j]], y[[i, j]], color="tab:blue", lw=1.5 * strength, alpha=max(0.15, strength))
    task = torch.repeat_interleave(torch.arange(len(tasks)), torch.tensor(tasks))
    ring.scatter(x, y, c=task, cmap="viridis", s=1200 / (classes + 10), zorder=2)
    if classes <= MOST_NAMED:
        for i, name in enumerate(names):
            ring.annotate(name, (1.12 * x[i], 1.12 * y[i]), ha="center", va="center", fontsize=7)
    ring.set(xlim=(-1.5, 1.5), ylim=(-1.25, 1.25), title="colour: task of arrival")
    ring.axis("off")

    image = matrix.imshow(edges, vmin=0, vmax=1, cmap="magma_r")
    matrix.set(title="all rotations, 4 rows per class")
    figure.colorbar(image, label="edge strength")
    return figure
