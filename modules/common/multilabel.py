"""Top-1 predictions judged by a set of valid labels instead of by one.

Valid sets are index lists (B, L) of class numbers, padded with -1: a thousand classes need not be spelt out.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


def among(prediction: Tensor, valid: Tensor) -> Tensor:
    """Whether each prediction (B,) is in its row of the padded lists (B, L); (B,) bool."""
    return (valid == prediction[:, None]).any(1)


def class_average(hits: Tensor, images: Tensor) -> Tensor:
    """Unweighted mean of hits / images over the classes that have images, in [0, 1]; NaN if none has."""
    there = images > 0
    return (hits[there] / images[there]).mean()


class MultiLabelAccuracy(Metric):
    """Counts by original label, exact over several processes.

    `compute` gives, over the images that are not skipped:
        mla: accuracy against the valid sets for each original label, then the unweighted mean over the labels that
            occur, percent.
        macro_top1: the same against the original label alone, percent.
        ml_acc: accuracy against the valid sets, plain mean over images, percent.
        mistakes, remaining: predictions that are not the original label; those that are not in the valid set.
        valid_share: what part of `mistakes` is in the valid set after all, percent; NaN without mistakes.
        counted, classes: images, and how many original labels occur among them.
        pairs: how many different pairs (original label, prediction) the remaining mistakes make.
        confused: (C, C), how often each such pair occurs.
    and over all images, skipped ones too:
        top1: accuracy against the original label, percent.
        n: images.

    Args:
        classes: number of classes C.
    """

    full_state_update = False
    images: Tensor
    right: Tensor
    valid: Tensor
    either: Tensor
    confused: Tensor
    all_right: Tensor
    all_images: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        for name in ("images", "right", "valid", "either"):
            self.add_state(name, torch.zeros(classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("confused", torch.zeros(classes * classes, dtype=torch.long), dist_reduce_fx="sum")
        for name in ("all_right", "all_images"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, original: Tensor, valid: Tensor, skip: Tensor) -> None:
        """prediction (B,), original (B,), valid (B, L) padded with -1, skip (B,) bool."""
        right, hit = prediction == original, among(prediction, valid)
        self.all_right += right.sum()
        self.all_images += len(right)
        for name, chosen in (("images", ~skip), ("right", right), ("valid", hit), ("either", right | hit)):
            getattr(self, name).index_add_(0, original, (chosen & ~skip).long())
        self.confused.index_add_(0, original * self.classes + prediction, (~hit & ~skip).long())

    def compute(self) -> dict[str, Tensor]:
        counted, mistakes = self.images.sum(), (self.images - self.right).sum()
        return {
            "mla": 100 * class_average(self.valid, self.images),
            "macro_top1": 100 * class_average(self.right, self.images),
            "ml_acc": 100 * self.valid.sum() / counted,
            "valid_share": 100 * (self.either - self.right).sum() / mistakes,
            "mistakes": mistakes.float(),
            "remaining": self.confused.sum().float(),
            "counted": counted.float(),
            "classes": (self.images > 0).sum().float(),
            "pairs": (self.confused > 0).sum().float(),
            "confused": self.confused.view(self.classes, self.classes),
            "top1": 100 * self.all_right / self.all_images,
            "n": self.all_images.float(),
        }
