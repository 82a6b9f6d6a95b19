"""Fourier spectra of feature maps: which frequencies a layer keeps (Park & Kim, ICLR 2022, arXiv 2202.06709)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

Key = TypeVar("Key")
Maps = Mapping[tuple[int, int, str], Tensor]  # (stage, block, branch) -> (B, H, W, C)
FLOOR = 1e-6  # amplitudes below it count as this


@contextmanager
def outputs_of(modules: Mapping[Key, nn.Module]) -> Iterator[dict[Key, Tensor]]:
    """Collects under the same keys what the modules give in forward passes inside; the last pass counts."""
    found: dict[Key, Tensor] = {}
    handles = []
    for key, module in modules.items():

        def keep(_: nn.Module, __: Any, y: Tensor, key: Key = key) -> None:
            found[key] = y

        handles.append(module.register_forward_hook(keep))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def averaged(x: Tensor, cell: int) -> Tensor:
    """Means of cell x cell pixels, (B, H, W, C) -> (B, H / cell, W / cell, C); the last cells may be smaller."""
    return x if cell == 1 else F.avg_pool2d(x.permute(0, 3, 1, 2), cell, ceil_mode=True).permute(0, 2, 3, 1)


def spectrum(x: Tensor) -> Tensor:
    """Amplitudes of the 2-D Fourier transform of every channel, (B, H, W, C) -> (B, H, W, C); frequency 0 is first."""
    return torch.fft.fft2(x.float(), dim=(1, 2)).abs()


def radii(height: int, width: int) -> Tensor:
    """Radius of every frequency, rounded to whole cycles per (longer) side: (H, W) int64."""
    fy, fx = torch.fft.fftfreq(height), torch.fft.fftfreq(width)
    return (torch.hypot(fy[:, None], fx[None]) * max(height, width)).round().long()


def radial(x: Tensor) -> Tensor:
    """Log-amplitude for each radius, mean over its frequencies and the channels: (B, H, W, C) -> (B, R + 1)."""
    radius = radii(x.shape[1], x.shape[2]).flatten().to(x.device)
    log = spectrum(x).clamp_min(FLOOR).log().mean(-1).flatten(1)  # (B, H W)
    rings = log.new_zeros(len(log), int(radius.max()) + 1).index_add_(1, radius, log)
    return rings / radius.bincount()


def high_frequency(rings: Tensor, base: int = 0) -> Tensor:
    """Log-amplitude at the highest radius minus that at radius `base`, of what `radial` gives: (B, R + 1) -> (B,).

    Low-pass maps are negative.
    """
    return rings[:, -1] - rings[:, base]


def spectra_figure(
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


def deviation_figure(maps: Mapping[tuple[int, str], Tensor], names: Sequence[str], image: Tensor) -> Figure:
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
