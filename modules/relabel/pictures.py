"""What a reader of ReLabel would want to see: label maps, and the labels that crops get from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor


def draw_maps(images: Tensor, maps: Tensor, labels: Sequence[str], names: Sequence[str]) -> Figure:
    """Images above the best class of each cell, a colour for each class, strong where its score is high.

    Args:
        images: (N, C, S, S) in [0, 1].
        maps: (N, 2, K, H, W).
        labels: the single label of each image.
        names: of the classes.
    """
    best, score = maps[:, 1, 0].long(), maps[:, 0, 0]  # (N, H, W) each
    figure = Figure(figsize=(1.8 * len(images), 4), layout="constrained")
    axes = figure.subplots(2, len(images), squeeze=False)
    strength = ((score - score.min()) / (score.max() - score.min()).clamp(min=1e-6)).numpy()
    for column, (image, label) in enumerate(zip(images, labels, strict=True)):
        above, below = axes[:, column]
        above.imshow(image.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
        above.set_title(f"labelled {label}", fontsize=8)
        below.imshow(best[column] % 10, cmap="tab10", vmin=0, vmax=9, alpha=strength[column])
        shown = [names[number] for number in best[column].flatten().bincount().topk(2).indices.tolist()]
        below.set_title(f"most cells: {shown[0]},\nthen {shown[1]}", fontsize=7)
        above.axis("off")
        below.set(xticks=[], yticks=[])
    return figure


def draw_crops(crops: Tensor, targets: Tensor, labels: Sequence[str], names: Sequence[str]) -> Figure:
    """Crops above the labels that they get.

    Args:
        crops: (N, C, S, S) in [0, 1].
        targets: (N, 2, classes): labels pooled over the crop and over the whole image.
        labels: the single label of each crop's image.
        names: of the classes.
    """
    figure = Figure(figsize=(1.8 * len(crops), 3.8), layout="constrained")
    axes = figure.subplots(2, len(crops), squeeze=False)
    for column, (crop, target, label) in enumerate(zip(crops, targets, labels, strict=True)):
        above, below = axes[:, column]
        above.imshow(crop.permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
        above.set_title(f"labelled {label}", fontsize=8)
        above.axis("off")
        chosen = target.amax(0).topk(min(10, target.shape[1])).indices.sort().values
        place = torch.arange(len(chosen), dtype=torch.float)
        for arm, (name, colour) in enumerate((("crop", "C0"), ("whole image", "C1"))):
            below.bar(place + 0.4 * arm - 0.2, target[arm, chosen], 0.4, color=colour, label=name)
        below.set(ylim=(0, 1), yticks=[], xticks=place.tolist())
        below.set_xticklabels([names[number] for number in chosen.tolist()], fontsize=6, rotation=90)
    axes[1, 0].legend(fontsize=6)
    axes[1, 0].set_ylabel("label pooled over", fontsize=8)
    return figure
