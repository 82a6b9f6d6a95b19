"""Prototypes with the scores of their characteristics."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor


def draw_groups(scores: Tensor, planted: Tensor, names: Sequence[str]) -> Figure:
    """A box plot of each characteristic's scores (M, P), apart for prototypes that show different things (P,)."""
    groups = [m for m in range(len(names)) if bool((planted == m).any())]
    figure = Figure(figsize=(9, 3), layout="constrained")
    if not groups:
        return figure
    for axis, group in zip(figure.subplots(1, len(groups), sharey=True, squeeze=False)[0], groups, strict=True):
        own = scores[:, planted == group]
        axis.boxplot([own[m].tolist() for m in range(len(names))], showfliers=False)
        axis.axhline(0, color="gray", linewidth=0.5)
        axis.set_xticks(range(1, len(names) + 1), names, fontsize=7, rotation=30)
        axis.set_title(f"{own.shape[1]} prototypes that show {names[group]}", fontsize=8)
    figure.axes[0].set_ylabel("score / mean over all prototypes", fontsize=8)
    return figure


def draw_explanations(pixels: Tensor, scores: Tensor, planted: Tensor, names: Sequence[str], each: int = 3) -> Figure:
    """Some prototypes of each kind, with their scores as bars.

    Args:
        pixels: patches (P, C, s, s) in [0, 1].
        scores: (M, P).
        planted: (P,), -1 for prototypes that show nothing in particular.
        each: how many of a kind.
    """
    chosen = [j for m in range(len(names)) for j in (planted == m).nonzero().flatten()[:each].tolist()]
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    if not chosen:
        return figure
    axes = figure.subplots(2, len(chosen), squeeze=False)
    low, high = float(scores[:, chosen].min().clamp(max=0)), float(scores[:, chosen].max())
    for column, j in enumerate(chosen):
        axes[0, column].imshow(pixels[j].permute(1, 2, 0).squeeze(-1), cmap="gray", vmin=0, vmax=1)
        axes[0, column].set_title(f"{j}: {names[int(planted[j])]}", fontsize=7)
        axes[0, column].axis("off")
        top = int(scores[:, j].argmax())
        colours = ["tab:orange" if m == top else "tab:blue" for m in range(len(names))]
        axes[1, column].bar(range(len(names)), scores[:, j].tolist(), color=colours)
        axes[1, column].set_xticks(range(len(names)), [name[:3] for name in names], fontsize=6)
        axes[1, column].set_ylim(low, high)
        axes[1, column].tick_params(axis="y", labelsize=5)
    return figure
