"""Weakly supervised localisation: the box of a map's largest bright region against the object's box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from modules.robust_explainability.gradients import stretched

THRESHOLDS = tuple(round(0.05 * number, 2) for number in range(1, 20))
ENOUGH = 0.5  # intersection over union from which on a box is right


def largest_box(bright: np.ndarray) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2, ends exclusive, of the largest connected region of a bool (H, W); all 0 where there is none.

    Pixels that touch at an edge are connected; of regions of one size the first counts.
    """
    regions, count = ndimage.label(bright)
    if not count:
        return 0, 0, 0, 0
    sizes = np.bincount(regions.ravel())[1:]
    rows, columns = ndimage.find_objects(regions)[int(sizes.argmax())]
    return columns.start, rows.start, columns.stop, rows.stop


def overlap(box: Sequence[float], others: Tensor) -> float:
    """The largest intersection over union of a box with others (R, 4); those of no area do not count."""
    best = 0.0
    x1, y1, x2, y2 = box
    for u1, v1, u2, v2 in others.tolist():
        if u2 <= u1 or v2 <= v1:
            continue
        common = max(0.0, min(x2, u2) - max(x1, u1)) * max(0.0, min(y2, v2) - max(y1, v1))
        union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - common
        best = max(best, common / union)
    return best


def dilated(masks: Tensor, radius: float) -> Tensor:
    """Pixels within a disc's radius of a mask (B, 1, H, W) bool: TorchRay's tolerance of the pointing game."""
    reach = int(radius)
    line = torch.arange(-reach, reach + 1, device=masks.device)
    disc = (line[:, None] ** 2 + line[None] ** 2 <= radius**2).float()
    near = F.conv2d(masks.float(), disc[None, None], padding=reach)
    return near > 0


class Localisation(Metric):
    """Share of images whose map's box is right, percent, at the threshold that is best on the images to tune on.

    `compute` gives wsl, of the images that are not tuned on; threshold; and both are 0 where one of the two kinds is
    missing.

    Args:
        thresholds: shares of the range between a map's smallest and largest value.
    """

    full_state_update = False
    right: Tensor
    images: Tensor

    def __init__(self, thresholds: Sequence[float] = THRESHOLDS) -> None:
        super().__init__()
        self.thresholds = tuple(thresholds)
        self.add_state("right", torch.zeros(2, len(self.thresholds), dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(2, dtype=torch.double), dist_reduce_fx="sum")

    def update(self, maps: Tensor, boxes: Tensor, in_test: Tensor) -> None:
        """maps (B, H, W); boxes (B, R, 4), of no area where there are fewer; in_test (B,), 0: to tune on."""
        levels = stretched(maps.float()).cpu().numpy()
        kinds = in_test.long().tolist()
        for level, own, kind in zip(levels, boxes.cpu(), kinds, strict=True):
            for number, threshold in enumerate(self.thresholds):
                self.right[kind, number] += overlap(largest_box(level >= threshold), own) >= ENOUGH
            self.images[kind] += 1

    def compute(self) -> dict[str, Tensor]:
        best = int(self.right[0].argmax())
        there = bool((self.images > 0).all())
        share = 100 * self.right[1, best] / self.images[1].clamp(min=1)
        nothing = torch.zeros((), dtype=torch.double, device=self.right.device)
        return {
            "wsl": share if there else nothing,
            "threshold": nothing + (self.thresholds[best] if there else 0.0),
        }
