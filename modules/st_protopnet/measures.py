"""What a heat map and a box say beside a mask, and margins (arXiv 2301.04011, Section on interpretability)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

PERCENTILE = 95.0


def margin(logits: Tensor) -> Tensor:
    """Largest minus second largest logit: (B, C) -> (B,)."""
    top = logits.topk(2, 1).values
    return top[:, 0] - top[:, 1]


def enlarge(maps: Tensor, side: int) -> Tensor:
    """(N, H, W) -> (N, side, side), bicubic."""
    return F.interpolate(maps[:, None].float(), (side, side), mode="bicubic", align_corners=False)[:, 0]


def share_inside(maps: Tensor, mask: Tensor) -> Tensor:
    """Which share of a prototype's patch, the pixels of its map's highest 5%, lies in a mask.

    Args:
        maps: similarity maps (N, H, W).
        mask: (N, S, S) bool.
    Returns:
        (N,) in [0, 1].
    """
    large = enlarge(maps, mask.shape[-1])
    bound = torch.quantile(large.flatten(1), PERCENTILE / 100, dim=1)
    patch = large >= bound[:, None, None]
    return (patch & mask).sum((1, 2)) / patch.sum((1, 2))


def heat_maps(maps: Tensor, side: int) -> Tensor:
    """(N, H, W) -> (N, side, side) between 0 and 1: enlarged, then stretched to that range."""
    large = enlarge(maps, side)
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return (large - low) / (high - low).clamp(min=1e-12)


def heat_in_mask(heat: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """How heat (N, S, S) in [0, 1] agrees with a mask (N, S, S), bool, that is neither empty nor everywhere.

    Returns:
        ch, mean heat inside; oirr, mean heat outside over inside; iou of mask and heat above 0.5; (N,) each.
    """
    inside = (heat * mask).sum((1, 2)) / mask.sum((1, 2))
    outside = (heat * ~mask).sum((1, 2)) / (~mask).sum((1, 2))
    hot = heat > 0.5
    iou = (hot & mask).sum((1, 2)) / (hot | mask).sum((1, 2))
    return {"ch": inside, "oirr": outside / inside.clamp(min=1e-12), "iou": iou}


def area(scores: Tensor) -> Tensor:
    """The area below equally spaced points by the trapezoid rule, their distances adding up to 1: (N, T) -> (N,)."""
    return (scores.sum(1) - (scores[:, 0] + scores[:, -1]) / 2) / (scores.shape[1] - 1)


def deletion_auc(probabilities: Callable[[Tensor], Tensor], x: Tensor, heat: Tensor, steps: int) -> Tensor:
    """The area below the predicted class's probability while the hottest pixels are set to 0, `steps` equal parts.

    Args:
        probabilities: (B, C, S, S) -> (B, classes).
        x: images (B, C, S, S), normalised: 0 is the mean.
        heat: (B, S, S).
        steps: how many parts; of 224 x 224 pixels, 28 parts are 224 * 8 pixels each.
    Returns:
        (B,).
    """
    scores = [probabilities(x)]
    predicted = scores[0].argmax(1, keepdim=True)
    order = heat.flatten(1).argsort(1, descending=True)
    part = -(-order.shape[1] // steps)
    for step in range(1, steps + 1):
        kept = torch.ones_like(heat).flatten(1).scatter_(1, order[:, : step * part], 0.0)
        scores.append(probabilities(x * kept.view_as(heat)[:, None]))
    return area(torch.stack([score.gather(1, predicted)[:, 0] for score in scores], 1))
