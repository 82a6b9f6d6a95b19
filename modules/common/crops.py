"""Classifying an image by the average over many crops of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.classifier import ClassificationModule
from modules.common.metrics import Classification


def views(x: Tensor, size: int, scales: Sequence[int], squares: int) -> Iterator[Tensor]:
    """Crops of size x size, as for GoogLeNet: scales x squares x 6 x 2 of them (4 x 3 x 6 x 2 = 144).

    At every scale (length of the shorter side) squares are cut along the longer side; of each the four corners, the
    centre and the whole square resized; of each its mirror image too.

    Args:
        x: images (B, C, H, W).
        size: S, at most the smallest scale.
        scales: shorter sides, pixels.
        squares: 1 (the middle) or 3 (both ends and the middle).
    Yields (B, C, S, S). Raises ValueError for another number of squares, or a scale below the size.
    """
    if squares not in (1, 3) or min(scales) < size:
        raise ValueError(f"squares={squares}, scales={list(scales)}: expected 1 or 3 squares and scales from {size}")
    height, width = x.shape[-2:]
    for scale in scales:
        whole = resized(x, round(height * scale / min(height, width)), round(width * scale / min(height, width)))
        room = max(whole.shape[-2:]) - scale
        for start in (room // 2,) if squares == 1 else (0, room // 2, room):
            square = whole.narrow(-1 if width > height else -2, start, scale)
            far, middle = scale - size, (scale - size) // 2
            places = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
            crops = [square[..., top : top + size, left : left + size] for top, left in places]
            for crop in (*crops, resized(square, size, size)):
                yield crop
                yield crop.flip(-1)


def resized(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)


class MultiCrop(ClassificationModule):
    """Trained networks tested on many views of each image, each by itself and all together. Not trained.

    `test/<name>_top1` and `test/<name>_top5` are of the softmax averaged over the views, `test/top1` and the others of
    the softmax averaged over the networks too.

    Args:
        members: classifiers with the same classes.
        names: one for each of them.
        classes: number of classes.
        size, scales, squares: see views.
        limit: use only so many of the views, to see that all works; None uses all.
    Raises:
        ValueError: not as many names as members.
    """

    def __init__(
        self,
        members: Sequence[ClassificationModule],
        names: Sequence[str],
        classes: int,
        size: int,
        scales: Sequence[int],
        squares: int = 3,
        limit: int | None = None,
    ) -> None:
        super().__init__(nn.ModuleList(members), classes)
        if len(names) != len(members):
            raise ValueError(f"names={list(names)}: expected one for each of the {len(members)} members")
        self.members, self.size, self.scales, self.squares = list(members), size, list(scales), squares
        self.limit = limit
        self.own = {name: Classification(classes, ("top1", "top5")) for name in names}
        self.add_module("own_metrics", nn.ModuleDict(self.own))

    def probabilities(self, x: Tensor) -> Tensor:
        """(B, C, H, W) of any size -> (members, B, classes): each member's softmax, averaged over the views."""
        total, count = x.new_zeros(len(self.members), len(x), self.classes, dtype=torch.float32), 0
        for view in islice(views(x, self.size, self.scales, self.squares), self.limit):
            total += torch.stack([member(view).float().softmax(-1) for member in self.members])
            count += 1
        return total / count

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) of any size -> the log of the mean probability (B, classes)."""
        return self.probabilities(x).mean(0).log()

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        found = self.probabilities(batch[0])
        for measure, one in zip(self.own.values(), found, strict=True):
            measure.update(one.log(), batch[1])
        self.test_metrics.update(found.mean(0).log(), batch[1])

    def on_test_epoch_end(self) -> None:
        for name, measure in self.own.items():
            found = measure.compute()
            self.log_dict({f"test/{name}_{key}": value for key, value in found.items() if key != "n"})
            measure.reset()
        super().on_test_epoch_end()
