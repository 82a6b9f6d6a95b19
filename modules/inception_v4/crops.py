"""Classifying an image by the average over many crops of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from modules.common.classifier import ClassificationModule
from modules.common.metrics import Classification
from modules.inception_v4.pictures import crops_picture


def views(x: Tensor, size: int, scales: Sequence[int], squares: int) -> Iterator[Tensor]:
    """Crops of size x size, as for GoogLeNet: scales x squares x 6 x 2 of them (4 x 3 x 6 x 2 = 144).

    At every scale (length of the shorter side) squares are cut along the longer side; of each the four corners, the
    centre and the whole square resized; of each its mirror image too.

    Args:
        x: images (B, C, H, W).
        size: S, at most the smallest scale.
        scales: shorter sides, pixels.
        squares: 1 (the middle) or 3 (both ends and the middle); 0 gives the centre of each scale alone, not mirrored.
    Yields (B, C, S, S). Raises ValueError for another number of squares, or a scale below the size.
    """
    if squares not in (0, 1, 3) or min(scales) < size:
        raise ValueError(f"squares={squares}, scales={list(scales)}: expected 0, 1 or 3 squares, scales from {size}")
    height, width = x.shape[-2:]
    shorter = min(height, width)
    for scale in scales:
        whole = resize(x, round(height * scale / shorter), round(width * scale / shorter))
        room = max(whole.shape[-2:]) - scale
        far = scale - size
        middle = far // 2
        corners_and_centre = [(0, 0), (0, far), (far, 0), (far, far), (middle, middle)]
        for start in (0, room // 2, room) if squares == 3 else (room // 2,):
            square = whole.narrow(-1 if width > height else -2, start, scale)
            crops = [square[..., top : top + size, left : left + size] for top, left in corners_and_centre]
            if squares == 0:
                yield crops[-1]
                continue
            for crop in (*crops, resize(square, size, size)):
                yield crop
                yield crop.flip(-1)


def resize(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, (height, width), mode="bilinear", antialias=True, align_corners=False)


class Hits(Metric):
    """How many images each network gets right with the first view, the first two, and so on."""

    total: Tensor
    n: Tensor

    def __init__(self, count: int, members: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(count, members), dist_reduce_fx="sum")
        self.add_state("n", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, right: Tensor) -> None:
        """(views, members, B) of bool."""
        self.total += right.float().sum(-1)
        self.n += right.shape[-1]

    def compute(self) -> Tensor:
        """Accuracy in percent, (views, members)."""
        return 100 * self.total / self.n


class MultiCrop(ClassificationModule):
    """Trained networks tested on many views of each image, each by itself and several together. Not trained.

    `test/<name>_top1` and `test/<name>_top5` are of the softmax averaged over the views, `test/top1` and the others of
    the softmax averaged over the networks of the ensemble too.

    Args:
        members: classifiers with the same classes.
        names: one for each of them.
        classes: number of classes.
        size, scales, squares: see views.
        ensemble: names of those that are averaged; None averages all.
        limit: use only so many of the views, to see that all works; None uses all.
    Raises:
        ValueError: not as many names as members, or an ensemble of others.
    """

    def __init__(
        self,
        members: Sequence[ClassificationModule],
        names: Sequence[str],
        classes: int,
        size: int,
        scales: Sequence[int],
        squares: int = 3,
        ensemble: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(nn.ModuleList(members), classes)
        if len(names) != len(members):
            raise ValueError(f"names={list(names)}: expected one for each of the {len(members)} members")
        averaged = list(names if ensemble is None else ensemble)
        if not averaged or set(averaged) - set(names):
            raise ValueError(f"ensemble={averaged}: expected some of {', '.join(names)}")
        self.members = list(members)
        self.names = list(names)
        self.ensemble = [self.names.index(name) for name in averaged]
        self.size = size
        self.scales = list(scales)
        self.squares = squares
        self.count = min(limit or 10**9, len(self.scales) * (12 * squares or 1))

        self.member_metrics = {name: Classification(classes, ("top1", "top5")) for name in names}
        self.add_module("metrics_by_name", nn.ModuleDict(self.member_metrics))
        self.hits = Hits(self.count, len(members))
        self.by_count = torch.empty(0)  # (views, members), percent, of the last test

    def running_average(self, x: Tensor) -> Iterator[Tensor]:
        """(B, C, H, W) of any size -> (members, B, classes): each member's softmax, averaged over the views so far."""
        total = x.new_zeros(len(self.members), len(x), self.classes, dtype=torch.float32)
        used = islice(views(x, self.size, self.scales, self.squares), self.count)
        for number, view in enumerate(used, 1):
            total = total + torch.stack([member(view).float().softmax(-1) for member in self.members])
            yield total / number

    def probabilities(self, x: Tensor) -> Tensor:
        """The same, averaged over all views."""
        *_, last = self.running_average(x)
        return last

    def ensemble_logits(self, probabilities: Tensor) -> Tensor:
        """(members, B, classes) -> the log of the ensemble's mean probability (B, classes)."""
        return probabilities[self.ensemble].mean(0).log()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) of any size -> the log of the ensemble's mean probability (B, classes)."""
        return self.ensemble_logits(self.probabilities(x))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        right = []
        for probabilities in self.running_average(x):  # (members, B, classes)
            right.append(probabilities.argmax(-1) == y)  # (members, B)
        self.hits.update(torch.stack(right))

        for measure, of_member in zip(self.member_metrics.values(), probabilities, strict=True):
            measure.update(of_member.log(), y)
        self.test_metrics.update(self.ensemble_logits(probabilities), y)

    def on_test_epoch_end(self) -> None:
        self.by_count = self.hits.compute().cpu()
        self.hits.reset()
        for name, measure in self.member_metrics.items():
            metrics = measure.compute()
            measure.reset()
            self.log_dict({f"test/{name}_{key}": value for key, value in metrics.items() if key != "n"})
        super().on_test_epoch_end()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Test accuracy against how many of the views are averaged, in the order of `views`."""
        if len(self.by_count) < 2:
            return {}
        return {"accuracy by number of crops": crops_picture(dict(zip(self.names, self.by_count.T, strict=True)))}
