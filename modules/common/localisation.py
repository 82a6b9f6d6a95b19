"""Do maps point at what they should? The pointing game and overlap with ground-truth boxes.

The pointing game (Zhang et al. 2016, arXiv 1608.00507) counts a hit where the largest value of a map, at the size of
the image, lies in a box of the map's object. A map that points anywhere hits as often as the boxes' share of the image
is large: that is its chance level, and it is reported beside the hit rate.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric


def box_masks(boxes: Tensor, chosen: Tensor, side: tuple[int, int]) -> Tensor:
    """Which pixels lie in one of an object's boxes.

    Args:
        boxes: (B, R, 4), x1, y1, x2, y2 in pixels, ends exclusive.
        chosen: (B, K, R) bool, which boxes belong to each of K objects.
        side: height and width of the image.
    Returns:
        (B, K, H, W) bool.
    """
    x = torch.arange(side[1], device=boxes.device)
    y = torch.arange(side[0], device=boxes.device)
    x1, y1, x2, y2 = (edge[:, :, None] for edge in boxes.unbind(2))
    along_x = (x >= x1) & (x < x2)  # (B, R, W)
    along_y = (y >= y1) & (y < y2)  # (B, R, H)
    inside = (along_y[:, :, :, None] & along_x[:, :, None, :]).float()
    return torch.einsum("bkr,brhw->bkhw", chosen.float(), inside) > 0


def enlarged(maps: Tensor, side: tuple[int, int]) -> Tensor:
    """Maps (B, K, h, w) at the size of the image, bilinear, in fp32: (B, K, H, W)."""
    return F.interpolate(maps.float(), side, mode="bilinear", align_corners=False)


def hits(maps: Tensor, masks: Tensor) -> Tensor:
    """Whether each map's largest value, the first of several, lies in its mask: (B, K, H, W) both -> (B, K) bool."""
    top = maps.flatten(2).argmax(2, keepdim=True)
    return masks.flatten(2).gather(2, top)[..., 0]


def overlap(maps: Tensor, masks: Tensor) -> Tensor:
    """Intersection over union of each mask with as many pixels as it has, those with the map's largest values.

    (B, K, H, W) both -> (B, K) in [0, 1]; 0 for an empty mask. The area being equal, no threshold has to be chosen.
    """
    inside = masks.flatten(2)
    area = inside.sum(2, keepdim=True)  # (B, K, 1)
    largest = int(area.max())
    top = maps.flatten(2).topk(largest, dim=2).indices  # (B, K, largest)
    counted = torch.arange(largest, device=area.device) < area
    common = (inside.gather(2, top) & counted).sum(2)
    return common / (2 * area[..., 0] - common).clamp(min=1)


class PointingGame(Metric):
    """Hit rate, chance level and overlap of maps, over all pairs of an image and an object that has a box in it.

    `compute` gives pointing, chance and overlap, percent, and pairs, a count; all 0 where there is no pair.

    Args:
        overlaps: measure the overlap too, which takes most of the time.
    """

    full_state_update = False
    total: Tensor

    def __init__(self, overlaps: bool = True) -> None:
        super().__init__()
        self.overlaps = overlaps
        self.add_state("total", torch.zeros(4, dtype=torch.double), dist_reduce_fx="sum")

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """maps (B, K, h, w) of any size; masks (B, K, H, W) bool at the image's size, empty where there is no box."""
        there = masks.flatten(2).any(2)
        large = enlarged(maps, (masks.shape[2], masks.shape[3]))
        area = masks.flatten(2).double().mean(2)
        shared = overlap(large, masks).double() if self.overlaps else torch.zeros_like(area)
        rows = [hits(large, masks).double(), area, shared, torch.ones_like(area)]
        self.total += torch.stack([row[there].sum() for row in rows])

    def compute(self) -> dict[str, Tensor]:
        pairs = self.total[3]
        shares = 100 * self.total[:3] / pairs.clamp(min=1)
        return {**dict(zip(("pointing", "chance", "overlap"), shares, strict=True)), "pairs": pairs}
