"""What segmentation of volumes needs: nnU-Net's loss and sliding window, Dice and region F1.

Conventions, where libraries differ:
- Dice of a class in one case is 2 TP / (2 TP + FP + FN) on label maps, nan when neither the reference nor the
  prediction has the class, and 0 when only one of them has it. Cases are averaged without the nans, then classes
  without background. MONAI's `compute_dice` agrees except where the reference alone is empty: there it says nan with
  `ignore_empty` and 0 without.
- A region is a 26-connected component of one class. A reference region is found (TP) when some predicted region of
  its class has an IoU above t with it, else FN; a predicted region that reaches t with no reference region is FP. One
  predicted region may find several (only below t = 0.5). F1 = 2 TP / (2 TP + FP + FN) with counts pooled over cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from modules.common.distributed import summed

SMOOTH = 1e-5  # in numerator and denominator


def soft_dice(probabilities: Tensor, labels: Tensor, batch: bool = False) -> Tensor:
    """(2 sum p g + s) / (sum p + sum g + s), mean over foreground classes and samples; in (0, 1].

    Args:
        probabilities: (B, C, ...), class 0 is background.
        labels: (B, ...) whole numbers below C.
        batch: take the sums over the whole (global) batch before dividing, so that small regions count together.
    """
    classes = torch.arange(1, probabilities.shape[1], device=labels.device).view(1, -1, *[1] * (labels.dim() - 1))
    target = labels.unsqueeze(1) == classes  # (B, C - 1, ...)
    p = probabilities[:, 1:]
    axes = list(range(2, p.dim()))
    sums = torch.stack([(p * target).sum(axes), p.sum(axes) + target.sum(axes)])  # (2, B, C - 1)
    if batch:
        sums = summed(sums.sum(1))
    return ((2 * sums[0] + SMOOTH) / (sums[1] + SMOOTH)).mean()


def dice_ce(logits: Tensor, labels: Tensor, batch_dice: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """nnU-Net's loss CE - Dice, in [-1, inf), and its two parts. logits (B, C, ...), labels (B, ...) int64."""
    log_p = F.log_softmax(logits.float(), 1)
    ce, dice = F.nll_loss(log_p, labels), soft_dice(log_p.exp(), labels, batch_dice)
    return ce - dice, ce, dice


def deep_supervision_weights(outputs: int) -> list[float]:
    """1, 1/2, 1/4, ... from the full resolution down, 0 for the lowest of several, summing to 1."""
    weights = [0.5**level for level in range(outputs)]
    if outputs > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


def deeply_supervised(
    outputs: Sequence[Tensor], labels: Tensor, batch_dice: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted sum of `dice_ce` over resolutions, and CE and Dice at full resolution.

    Args:
        outputs: logits (B, C, ...), full resolution first.
        labels: (B, D, H, W) int64, downsampled to nearest voxels.
    """
    total, first = outputs[0].new_zeros((), dtype=torch.float32), (outputs[0].new_zeros(()),) * 2
    for level, (weight, logits) in enumerate(zip(deep_supervision_weights(len(outputs)), outputs, strict=True)):
        target = labels
        if level:
            size = list(logits.shape[2:])
            target = F.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
        loss, ce, dice = dice_ce(logits, target, batch_dice)
        total = total + weight * loss  # also with weight 0: every process then has a gradient for every parameter
        if not level:
            first = (ce, dice)
    return total, *first


# --- inference -------------------------------------------------------------------------------------------------------


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
    starts = list(product(*(window_starts(s, p, step) for s, p in zip(volume.shape[2:], patch, strict=True))))
    places: list[Any] = [(..., *(slice(a, a + p) for a, p in zip(start, patch, strict=True))) for start in starts]
    found, total = None, volume.new_zeros(volume.shape[2:])
    for begin in range(0, len(places), window_batch):
        chosen = places[begin : begin + window_batch]
        logits = predict(torch.cat([volume[place] for place in chosen])).float()
        if found is None:
            found = volume.new_zeros(logits.shape[1], *volume.shape[2:])
        for place, part in zip(chosen, logits, strict=True):
            share = weights * (total[place] == 0) if first else weights
            found[place] += part.mul_(share)
            total[place] += share
    assert found is not None
    inner: tuple[Any, ...] = (..., *(slice(b, b + s) for b, s in zip(before, size, strict=True)))
    return found.div_(total)[inner][None]


def flips(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every combination of mirrored axes of a (B, C, D, H, W) tensor, the unmirrored one first; axes count from D."""
    return [tuple(a + 2 for a in chosen) for n in range(len(axes) + 1) for chosen in combinations(axes, n)]


def resampled_labels(logits: Tensor, size: Sequence[int]) -> Tensor:
    """The label map (*size) of logits (1, C, D, H, W) after linear resampling, one class at a time to save memory."""
    if list(logits.shape[2:]) == list(size):
        return logits[0].argmax(0)
    best = logits.new_full(tuple(size), -math.inf)
    labels = torch.zeros(tuple(size), dtype=torch.long, device=logits.device)
    for number, channel in enumerate(logits[0]):
        value = F.interpolate(channel[None, None], size=list(size), mode="trilinear")[0, 0]
        better = value > best
        labels[better], best = number, torch.where(better, value, best)
    return labels


# --- metrics ---------------------------------------------------------------------------------------------------------


def dice_per_class(prediction: Tensor, reference: Tensor, classes: int) -> Tensor:
    """(classes - 1,) float64 in [0, 1], nan where neither has the class. Both are label maps of one case."""
    pairs = torch.bincount(reference.flatten().long() * classes + prediction.flatten(), minlength=classes**2)
    pairs = pairs.view(classes, classes).double()  # (reference, prediction)
    return (2 * pairs.diagonal() / (pairs.sum(0) + pairs.sum(1)))[1:]


def region_matches(prediction: Tensor, reference: Tensor, classes: int, thresholds: Sequence[float]) -> Tensor:
    """(thresholds, classes - 1, 3) float64: TP, FP and FN regions of one case, by the rule at the top of this file."""
    predicted, referred = prediction.cpu().numpy().astype(np.int32), reference.cpu().numpy().astype(np.int32)
    boxes = zip(ndimage.find_objects(predicted, classes - 1), ndimage.find_objects(referred, classes - 1), strict=True)
    counts = np.zeros((len(thresholds), classes - 1, 3))
    for number, pair in enumerate(boxes):
        there = [box for box in pair if box is not None]
        if not there:
            continue
        box = tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*there, strict=True))
        found, n_found = ndimage.label(predicted[box] == number + 1, np.ones((3, 3, 3)))
        wanted, n_wanted = ndimage.label(referred[box] == number + 1, np.ones((3, 3, 3)))
        pairs = np.bincount((wanted * (n_found + 1) + found).ravel(), minlength=(n_wanted + 1) * (n_found + 1))
        pairs = pairs.reshape(n_wanted + 1, n_found + 1)
        common = pairs[1:, 1:]
        iou = common / (pairs.sum(1)[1:, None] + pairs.sum(0)[None, 1:] - common)
        for row, threshold in enumerate(thresholds):
            matched = iou > threshold
            true = matched.any(1).sum()
            counts[row, number] = true, n_found - matched.any(0).sum(), n_wanted - true
    return torch.from_numpy(counts)


class SegmentationScores(Metric):
    """Dice and region F1 over cases; sums alone are kept, so that several processes give what one gives.

    Args:
        classes: C with background, which is not scored.
        thresholds: IoU thresholds of the region F1; none leaves regions out.
    """

    full_state_update = False
    dice_sum: Tensor
    dice_cases: Tensor
    regions: Tensor
    cases: Tensor

    def __init__(self, classes: int, thresholds: Sequence[float] = ()) -> None:
        super().__init__()
        self.classes, self.thresholds = classes, tuple(thresholds)
        sizes = {"dice_sum": (classes - 1,), "dice_cases": (classes - 1,), "cases": ()}
        sizes |= {"regions": (len(self.thresholds), classes - 1, 3)}
        for name, size in sizes.items():
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, reference: Tensor) -> None:
        """Label maps (D, H, W) of one case."""
        dice = dice_per_class(prediction, reference, self.classes)
        self.dice_sum += dice.nan_to_num()
        self.dice_cases += ~dice.isnan()
        if self.thresholds:
            self.regions += region_matches(prediction, reference, self.classes, self.thresholds).to(self.regions)
        self.cases += 1

    def compute(self) -> dict[str, Tensor]:
        """`dice` (C - 1,), `f1` (thresholds, C - 1), nan where nothing was there to score, and `n` cases."""
        true, wrong, missed = self.regions.unbind(-1)
        f1 = 2 * true / (2 * true + wrong + missed)
        return {"dice": self.dice_sum / self.dice_cases, "f1": f1, "n": self.cases}
