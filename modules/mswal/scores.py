"""Dice and region F1 of label maps.

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

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torchmetrics import Metric


def dice_per_class(prediction: Tensor, reference: Tensor, classes: int) -> Tensor:
    """(classes - 1,) float64 in [0, 1], nan where neither has the class. Both are label maps of one case."""
    pairs = torch.bincount(reference.flatten().long() * classes + prediction.flatten(), minlength=classes**2)
    pairs = pairs.view(classes, classes).double()  # (reference, prediction)
    return (2 * pairs.diagonal() / (pairs.sum(0) + pairs.sum(1)))[1:]


def region_matches(prediction: Tensor, reference: Tensor, classes: int, thresholds: Sequence[float]) -> Tensor:
    """(thresholds, classes - 1, 3) float64: TP, FP and FN regions of one case, by the rule at the top of this file."""
    predicted = prediction.cpu().numpy().astype(np.int32)
    referred = reference.cpu().numpy().astype(np.int32)
    boxes = zip(ndimage.find_objects(predicted, classes - 1), ndimage.find_objects(referred, classes - 1), strict=True)
    counts = np.zeros((len(thresholds), classes - 1, 3))
    for number, pair in enumerate(boxes):
        present = [box for box in pair if box is not None]
        if not present:
            continue
        box = tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*present, strict=True))
        regions, n_predicted = ndimage.label(predicted[box] == number + 1, np.ones((3, 3, 3)))
        wanted, n_wanted = ndimage.label(referred[box] == number + 1, np.ones((3, 3, 3)))

        pairs = (wanted * (n_predicted + 1) + regions).ravel()
        voxels = np.bincount(pairs, minlength=(n_wanted + 1) * (n_predicted + 1))
        voxels = voxels.reshape(n_wanted + 1, n_predicted + 1)  # of each pair of regions; 0 is outside of all
        common = voxels[1:, 1:]
        iou = common / (voxels.sum(1)[1:, None] + voxels.sum(0)[None, 1:] - common)

        for row, threshold in enumerate(thresholds):
            matched = iou > threshold
            true = matched.any(1).sum()
            counts[row, number] = true, n_predicted - matched.any(0).sum(), n_wanted - true
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
        self.classes = classes
        self.thresholds = tuple(thresholds)
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
