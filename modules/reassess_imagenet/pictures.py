"""What a reader of the paper wants to see: scores by number of labels, gaps and their parts, label histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from torch import Tensor

from modules.reassess_imagenet.scores import COMPARED, Groups, label_counts

SHOWN = {"top1": "top-1", "real": "ReaL", "vtk": "variable top-k", "strict": "strict variable top-k"}
PARTS = {
    "gap_{}": "as it is",
    "gap_{}_k1": "one label",
    "gap_{}_reweighted": "first set's label counts",
    "gap_{}_reverse": "second set's label counts",
}


def draw_groups(groups: Mapping[str, Groups]) -> Figure:
    """A_k against k for each set, with the sizes of the groups."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, (name, group) in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups.items(), strict=True):
        last = len(group.images)
        for score, label in SHOWN.items():
            axes.plot(range(1, last + 1), 100 * group.scores[score], "o-", label=label)
        ticks = [f"{k}{'+' if k == last else ''}\n{int(n)}" for k, n in enumerate(group.images, 1)]
        axes.set_xticks(range(1, last + 1), ticks, fontsize=7)
        axes.set(ylim=(0, 100), ylabel="percent", xlabel="valid labels, images")
        axes.set_title(name, fontsize=9)
    axes.legend(fontsize=7)
    return figure


def draw_gaps(gaps: Mapping[str, float]) -> Figure:
    """The gap of each score, plain and with label counts held equal; parts that a set cannot tell are left out."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(PARTS)
    for number, (part, label) in enumerate(PARTS.items()):
        heights = [gaps[part.format(score)] for score in COMPARED]
        axes.bar([i + number * width for i in range(len(COMPARED))], heights, width, label=label)
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(COMPARED))], [SHOWN[score] for score in COMPARED])
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_ylabel("first set - second set, points")
    axes.legend(fontsize=7)
    return figure


def draw_examples(
    images: Tensor, original: Tensor, valid: Tensor, ranked: Tensor, names: Sequence[str], rows: int = 4
) -> Figure:
    """Images (N, C, H, W) in [0, 1] with their valid labels (the original one first) and the classes ranked first."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    for number, axes in enumerate(figure.subplots(1, len(images), squeeze=False)[0]):
        labels = [label for label in valid[number].tolist() if label >= 0]
        first = int(original[number])
        said = [first, *(label for label in labels if label != first)]
        axes.imshow(images[number].permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
        axes.set_title("\n".join(["valid", *(names[label] for label in said)]), fontsize=6)
        lines = [f"{names[c]}{'' if c in labels else ' (wrong)'}" for c in ranked[number, :rows].tolist()]
        axes.set_xlabel("\n".join(["ranked", *lines]), fontsize=6)
        axes.set(xticks=[], yticks=[])
    return figure


def draw_histograms(tables: Mapping[str, Tensor]) -> Figure:
    """How many images of each set (N, L) have how many labels, in percent of those that have any."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    for number, (name, valid) in enumerate(tables.items()):
        counts = label_counts(valid).bincount()[1:]
        share = 100 * counts / counts.sum()
        places = [k + (number - 0.5) * 0.4 for k in range(1, len(share) + 1)]
        axes.bar(
            places, share, 0.4, label=f"{name}: {int(counts.sum()):,} images, {100 - float(share[0]):.2f}% several"
        )
    axes.set(xlabel="valid labels", ylabel="percent of the images")
    axes.legend(fontsize=8)
    return figure


def draw_pairs(pairs: Mapping[str, Sequence[tuple[str, str, int]]]) -> Figure:
    """Classes that are most often valid for the same image, (name, name, images), for each set."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs.items(), strict=True):
        axes.barh(range(len(rows)), [count for *_, count in rows])
        axes.set_yticks(range(len(rows)), [f"{a}, {b}" for a, b, _ in rows], fontsize=6)
        axes.invert_yaxis()
        axes.set_xlabel(f"{name}: images with both labels", fontsize=8)
    return figure
