"""Spectra of the branches' outputs and their maps of one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from modules.iformer.spectra import FLOOR, radial, spectrum


def draw_spectra(
    maps: Mapping[tuple[int, str], Tensor], before: Mapping[tuple[int, str], Tensor], names: Sequence[str]
) -> Figure:
    """Log-amplitudes as images, a row for each stage, and by radius beside them.

    Args:
        maps: (stage, branch) -> (B, H, W, C).
        before: the same of the untrained network, dashed; maybe empty.
        names: of the branches, in the order of the columns.
    """
    stages = sorted({stage for stage, _ in maps})
    figure = Figure(figsize=(2.6 * (len(names) + 1), 2.4 * max(1, len(stages))), layout="constrained")
    if not stages:
        return figure
    axes = figure.subplots(len(stages), len(names) + 1, squeeze=False)
    for row, stage in enumerate(stages):
        curves = axes[row, -1]
        for column, name in enumerate(names):
            ax = axes[row, column]
            ax.set(xticks=[], yticks=[])
            ax.set_title(f"{name}, stage {stage}", fontsize=8)
            if (stage, name) not in maps:
                ax.text(0.5, 0.5, "none", ha="center", va="center")
                continue
            y = maps[stage, name]
            log = spectrum(y).clamp_min(FLOOR).log().mean((0, 3))  # (H, W)
            ax.imshow(torch.fft.fftshift(log - log[0, 0]), cmap="viridis", vmin=-8, vmax=0)
            rings = radial(y).mean(0)
            (line,) = curves.plot(rings - rings[0], marker=".", label=name)
            if (stage, name) in before:
                rings = radial(before[stage, name]).mean(0)
                curves.plot(rings - rings[0], linestyle="--", color=line.get_color(), label=f"{name}, untrained")
        curves.set(ylabel="log-amplitude minus that at 0")
        curves.set_title("by radius, cycles per side", fontsize=8)
    axes[0, -1].legend(fontsize=6)
    images = len(next(iter(maps.values())))
    figure.suptitle(
        f"spectra of the last block's branches, {images} test images, 0 in the middle, from -8 (dark) to 0", fontsize=9
    )
    return figure


def draw_deviations(maps: Mapping[tuple[int, str], Tensor], names: Sequence[str], image: Tensor) -> Figure:
    """How far a branch's output lies from its mean over the map: root mean square over channels, for one image.

    Args:
        maps: (stage, branch) -> (H, W, C).
        names: of the branches, in the order of the columns.
        image: (H, W, C) in [0, 1].
    """
    stages = sorted({stage for stage, _ in maps})
    figure = Figure(figsize=(2.2 * (len(names) + 1), 1.9 * max(1, len(stages))), layout="constrained")
    if not stages:
        return figure
    axes = figure.subplots(len(stages), len(names) + 1, squeeze=False)
    for row, stage in enumerate(stages):
        axes[row, 0].imshow(image, cmap="gray")
        for column, name in enumerate(names, 1):
            if (stage, name) in maps:
                y = maps[stage, name]
                shown = axes[row, column].imshow((y - y.mean((0, 1))).square().mean(-1).sqrt(), cmap="magma", vmin=0)
                figure.colorbar(shown, ax=axes[row, column])
            axes[row, column].set_title(f"{name}, stage {stage}", fontsize=8)
    for ax in axes.flat:
        ax.axis("off")
    figure.suptitle("one image: how far each place of the last block's branches is from their mean", fontsize=9)
    return figure
