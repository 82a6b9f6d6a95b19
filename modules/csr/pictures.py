"""What a doctor gets to see: the atlas of prototypes, and maps before and after boxes."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor

from modules.common.localisation import enlarged


def draw_atlas(images: Tensor, maps: Tensor, names: Sequence[str], marked: Sequence[bool], columns: int) -> Figure:
    """Training images with the map of the prototype they stand for; a red title where it peaks in a negative box.

    Args:
        images: (N, 3, H, W) in [0, 1].
        maps: (N, h, w).
        names, marked: one for each.
        columns: images in a row.
    """
    rows = -(-len(images) // columns)
    side = (images.shape[2], images.shape[3])
    large = enlarged(maps[:, None], side)[:, 0]
    figure = Figure(figsize=(1.6 * columns, 1.7 * rows), layout="constrained")
    for number, axis in enumerate(figure.subplots(rows, columns, squeeze=False).flat):
        axis.axis("off")
        if number < len(images):
            axis.imshow(images[number].permute(1, 2, 0).numpy())
            axis.imshow(large[number].numpy(), cmap="inferno", alpha=0.45, vmin=0, vmax=1)
            axis.set_title(names[number], fontsize=6, color="red" if marked[number] else "black")
    return figure


def draw_interaction(before: Tensor, after: Tensor, present: Tensor, names: Sequence[str]) -> Figure:
    """For each image the maps of up to four of its concepts, above as they are and below after the boxes.

    Args:
        before, after: (N, K, h, w).
        present: (N, K) bool.
        names: of the concepts.
    """
    figure = Figure(figsize=(6, 2.6 * len(before)), layout="constrained")
    axes = figure.subplots(2 * len(before), 4, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number in range(len(before)):
        for column, k in enumerate(present[number].nonzero().flatten()[:4].tolist()):
            for line, maps in enumerate((before, after)):
                axis = axes[2 * number + line, column]
                axis.imshow(maps[number, k].numpy(), cmap="inferno", vmin=0, vmax=1)
                axis.set_title(f"{names[k]}, {('as it is', 'after boxes')[line]}", fontsize=6)
    return figure
