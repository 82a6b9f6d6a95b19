"""What a reader of ViT-VQGAN would want to see: reconstructions, the codebook's histogram, generated images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from modules.vit_vqgan.pixels import grid


def draw_reconstructions(images: Tensor, reconstructions: Tensor) -> Figure:
    """Images above their reconstructions, both (N, C, H, W) in [0, 1]."""
    return grid([images, reconstructions], ["original", "reconstruction"])


def draw_codebook_use(codes: Tensor, size: int) -> Figure:
    """How often each of `size` codes occurs in the tokens of images, (N, T)."""
    counts = torch.bincount(codes.flatten(), minlength=size).sort(descending=True).values
    figure = Figure(figsize=(9, 3), layout="constrained")
    axes = figure.subplots()
    axes.stairs(counts, fill=True)
    axes.set(xlabel="codes, most used first", ylabel=f"tokens of {len(codes)} test images")
    axes.set_title(f"{int((counts > 0).sum())} of {size} codes are used", fontsize=9)
    return figure


def draw_samples(images: Mapping[int, Sequence[Tensor]], names: Sequence[str] | None) -> Figure:
    """Generated images (C, H, W) by class, a row of at most twelve each; two rows where there are no names.

    Args:
        images: class -> its images, at least one.
        names: of the classes; None where all images are under class 0.
    """
    if names is None:
        rows = torch.stack(list(images[0])).split(12)
        return grid(rows, [""] * len(rows))
    rows = [torch.stack(list(row[:12])) for row in images.values()]
    return grid(rows, [names[label] for label in images])
