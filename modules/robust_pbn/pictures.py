"""What a reader of the paper looks at: components, and how classes reason with them."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor


def draw_components(points: Tensor) -> Figure:
    """(K, C, H, W) in [0, 1], in rows of ten."""
    columns = min(10, len(points))
    rows = -(-len(points) // columns)
    figure = Figure(figsize=(columns, 1.15 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for number, place in enumerate(axes.flat):
        place.axis("off")
        if number < len(points):
            place.imshow(points[number].permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
            place.set_title(str(number), fontsize=7)
    return figure


def draw_reasoning(positive: Tensor, negative: Tensor, concepts: Sequence[str]) -> Figure:
    """r+ and r- (K, P), side by side on one scale; a row for each concept."""
    figure = Figure(figsize=(9, 0.6 + 0.2 * len(concepts)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    top = float(max(positive.max(), negative.max()))
    for place, values, title in ((left, positive, "there: r+"), (right, negative, "not there: r-")):
        image = place.imshow(values.T, cmap="viridis", vmin=0, vmax=top, aspect="auto", interpolation="nearest")
        place.set_title(title, fontsize=8)
        place.set_xlabel("component", fontsize=8)
        place.tick_params(labelsize=6)
    left.set_yticks(range(len(concepts)), concepts)
    figure.colorbar(image, ax=[left, right])
    return figure


def draw_explanation(
    image: Tensor, maps: Tensor, contributions: Sequence[tuple[str, int, float]], title: str
) -> Figure:
    """A picture and where its most important components are.

    Args:
        image: (C, H, W) in [0, 1].
        maps: (K, h, w), how strongly each component is there.
        contributions: what to show: words, component, share of the class's agreement.
        title: above the picture.
    """
    figure = Figure(figsize=(1.7 * (1 + len(contributions)), 2.1), layout="constrained")
    places = figure.subplots(1, 1 + len(contributions), squeeze=False)[0]
    height, width = image.shape[-2:]
    for place in places:
        place.imshow(image.permute(1, 2, 0), cmap="gray", extent=(0, width, height, 0))
        place.axis("off")
    places[0].set_title(title, fontsize=7)
    for place, (words, component, share) in zip(places[1:], contributions, strict=True):
        place.imshow(maps[component], cmap="inferno", alpha=0.6, extent=(0, width, height, 0), vmin=0, vmax=1)
        place.set_title(f"{words} {component}: {share:.3f}", fontsize=7)
    return figure
