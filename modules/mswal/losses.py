"""nnU-Net's loss: cross-entropy minus soft Dice, at every resolution of the decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

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
    ce = F.nll_loss(log_p, labels)
    dice = soft_dice(log_p.exp(), labels, batch_dice)
    return ce - dice, ce, dice


def deep_supervision_weights(outputs: int) -> list[float]:
    """1, 1/2, 1/4, ... from the full resolution down, 0 for the lowest of several, summing to 1."""
    weights = [0.5**level for level in range(outputs)]
    if outputs > 1:
        weights[-1] = 0.0
    return [weight / sum(weights) for weight in weights]


def deeply_supervised_loss(
    outputs: Sequence[Tensor], labels: Tensor, batch_dice: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The weighted sum of `dice_ce` over resolutions, and CE and Dice at full resolution.

    Args:
        outputs: logits (B, C, ...), full resolution first.
        labels: (B, D, H, W) int64, downsampled to nearest voxels.
    """
    weights = deep_supervision_weights(len(outputs))
    loss, ce, dice = dice_ce(outputs[0], labels, batch_dice)
    total = weights[0] * loss
    for weight, logits in zip(weights[1:], outputs[1:], strict=True):
        size = list(logits.shape[2:])
        target = F.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
        # also with weight 0: every process then has a gradient for every parameter
        total = total + weight * dice_ce(logits, target, batch_dice)[0]
    return total, ce, dice
