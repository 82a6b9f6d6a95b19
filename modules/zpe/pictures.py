"""What a reader of ZPE would want to see: the data, and which prompts the score finds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

KINDS = {"own": "C2", "planted": "C3", "other": "C0"}  # kind of prompt -> colour


def draw_captioned(images: Tensor, captions: Sequence[str]) -> Figure:
    """Images (B, 3, H, W) in [0, 1] with a text each."""
    figure = Figure(figsize=(10, 2), layout="constrained")
    axes = figure.subplots(1, len(images), squeeze=False)[0]
    for axis, image, caption in zip(axes, images, captions, strict=True):
        axis.imshow(image.permute(1, 2, 0))
        axis.set_title("\n".join(wrapped(caption, 18)), fontsize=7)
        axis.axis("off")
    return figure


def wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def kinds(own: np.ndarray, planted: np.ndarray) -> np.ndarray:
    return np.where(planted, "planted", np.where(own, "own", "other"))


def draw_scores(scores: dict[str, Tensor], accuracies: dict[str, Tensor], kind: dict[str, np.ndarray]) -> Figure:
    """Each prompt's accuracy by itself against its score, a panel for each set."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    panels = figure.subplots(1, len(scores), squeeze=False)[0]
    for axis, (name, score) in zip(panels, scores.items(), strict=True):
        for label, colour in KINDS.items():
            chosen = kind[name] == label
            axis.scatter(score.numpy()[chosen], accuracies[name].numpy()[chosen], s=12, color=colour, label=label)
        axis.set(title=name, xlabel="score")
    panels[0].set_ylabel("top-1 of the prompt alone, percent")
    panels[-1].legend(fontsize=7)
    return figure


def draw_weights(weights: dict[str, Tensor], templates: dict[str, list[str]], kind: dict[str, np.ndarray]) -> Figure:
    """The ten heaviest prompts of each of the first four sets."""
    shown = list(weights)[:4]
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        order = weights[name].argsort(descending=True)[:10].tolist()
        colours = [KINDS[str(kind[name][row])] for row in order]
        axis.barh(range(len(order)), weights[name][order].numpy(), color=colours)
        axis.set_yticks(range(len(order)), [templates[name][row] for row in order], fontsize=6)
        axis.invert_yaxis()
        axis.set(title=name, xlabel="weight")
    return figure
