"""nnU-Net's inference on whole volumes: a sliding window, mirrored views, labels at the annotated size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Inference:
    """How whole scans are segmented.

    Attributes:
        mirror: axes along which test patches are mirrored, all combinations, logits averaged.
        step: distance of test windows as a fraction of the patch; they are weighted by a Gaussian.
        window_batch: windows per forward pass.
        compare: also report Dice without mirroring, and from as few windows as cover the scan, each voxel from one of
            them, on the same weights.
    """

    mirror: Sequence[int] = (0, 1, 2)
    step: float = 0.5
    window_batch: int = 1
    compare: bool = False


def window_starts(size: int, patch: int, step: float) -> list[int]:
    """Where windows begin along one axis: evenly spaced, at most step * patch apart, the last one flush."""
    if size <= patch:
        return [0]
    count = math.ceil((size - patch) / (patch * step)) + 1
    return [round(i * (size - patch) / (count - 1)) for i in range(count)]


def gaussian_window(patch: Sequence[int], scale: float = 0.125) -> Tensor:
    """Weights of a window's voxels: a Gaussian of sigma = scale * side around voxel side // 2, 1 at its centre."""
    weights = torch.ones(1)
    for side in patch:
        distance = torch.arange(side, dtype=torch.float32) - side // 2
        weights = weights[..., None] * torch.exp(-0.5 * (distance / (scale * side)) ** 2)
    return weights[0]


def sliding_window(
    volume: Tensor,
    predict: Callable[[Tensor], Tensor],
    patch: Sequence[int],
    step: float = 0.5,
    weights: Tensor | None = None,
    window_batch: int = 1,
    first: bool = False,
) -> Tensor:
    """Logits of a whole volume from windows, averaged where they overlap.

    Args:
        volume: (1, C_in, D, H, W); padded with zeros on both sides where it is smaller than the patch.
        predict: (b, C_in, *patch) -> (b, C, *patch).
        step: largest distance between windows, as a fraction of the patch.
        weights: (*patch), see gaussian_window; None weighs all voxels alike.
        window_batch: windows per call of `predict`.
        first: a voxel keeps the logits of the first window that reaches it, instead of the average.
    Returns:
        (1, C, D, H, W) float32.
    """
    size = volume.shape[2:]
    before = [max(p - s, 0) // 2 for s, p in zip(size, patch, strict=True)]
    after = [max(p - s, 0) - b for s, p, b in zip(size, patch, before, strict=True)]
    if any(after):
        volume = F.pad(volume, [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair])

    weights = torch.ones(*patch) if weights is None else weights
    weights = weights.to(volume.device)

    starts = product(*(window_starts(s, p, step) for s, p in zip(volume.shape[2:], patch, strict=True)))
    windows: list[Any] = [(..., *(slice(a, a + p) for a, p in zip(start, patch, strict=True))) for start in starts]
    sums = None  # (C, D, H, W), once C is known
    total = volume.new_zeros(volume.shape[2:])
    for begin in range(0, len(windows), window_batch):
        chosen = windows[begin : begin + window_batch]
        logits = predict(torch.cat([volume[window] for window in chosen])).float()  # (b, C, *patch)
        if sums is None:
            sums = volume.new_zeros(logits.shape[1], *volume.shape[2:])
        for window, values in zip(chosen, logits, strict=True):
            share = weights * (total[window] == 0) if first else weights
            sums[window] += values.mul_(share)
            total[window] += share
    assert sums is not None

    inner: tuple[Any, ...] = (..., *(slice(b, b + s) for b, s in zip(before, size, strict=True)))
    return sums.div_(total)[inner][None]


def list_flips(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every combination of mirrored axes of a (B, C, D, H, W) tensor, the unmirrored one first; axes count from D."""
    return [tuple(a + 2 for a in chosen) for n in range(len(axes) + 1) for chosen in combinations(axes, n)]


def resample_to_labels(logits: Tensor, size: Sequence[int]) -> Tensor:
    """The label map (*size) of logits (1, C, D, H, W) after linear resampling, one class at a time to save memory."""
    if list(logits.shape[2:]) == list(size):
        return logits[0].argmax(0)
    best = logits.new_full(tuple(size), -math.inf)
    labels = torch.zeros(tuple(size), dtype=torch.long, device=logits.device)
    for number, channel in enumerate(logits[0]):
        value = F.interpolate(channel[None, None], size=list(size), mode="trilinear")[0, 0]
        better = value > best
        labels[better] = number
        best = torch.where(better, value, best)
    return labels
