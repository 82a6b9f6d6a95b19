"""A picture of accuracy against the number of training images, made of stages that are there already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from modules.common.module import StageModule
from modules.off_the_shelf.module import LinearSVM
from modules.off_the_shelf.pictures import draw_curve


class Curve(StageModule):
    """All machines are tested once more, on the images of this stage's data; nothing is logged but how many those are.

    Batches hold the features (B, V, D) of each kind, x, x2, ..., and the label y last.

    Args:
        machines: the stages, feature by feature, each with all `sizes`.
        features: names of the features, in the order of the columns.
        sizes: numbers of training images, increasing.
    Raises:
        ValueError: not one stage for each feature and size.
    """

    def __init__(self, machines: Sequence[LinearSVM], features: Sequence[str], sizes: Sequence[int]) -> None:
        super().__init__()
        if len(machines) != len(features) * len(sizes):
            raise ValueError(f"{len(machines)} machines: expected {len(features)} features x {len(sizes)} sizes")
        self.machines = list(machines)  # a plain list: they belong to their own stages
        self.features = list(features)
        self.sizes = list(sizes)
        self._right: list[Tensor] = []
        self._labels: list[Tensor] = []
        self.accuracy = torch.empty(0)  # (features, sizes) of a test in this process, percent
        self.per_class = torch.empty(0)  # (features, classes) with the most training images, percent

    def forward(self, *features: Tensor) -> Tensor:
        """Predicted classes by each machine, (machines, B), from each kind of features (B, V, D)."""
        predicted = []
        for number, svm in enumerate(self.machines):
            x = features[number // len(self.sizes)].to(svm.device)
            predicted.append(svm.pool(svm(x))[""].argmax(1))
        return torch.stack(predicted)

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        firsts = self.machines[:: len(self.sizes)]
        return tuple(torch.zeros(1, 1, svm.weight.shape[1], device=self.device) for svm in firsts)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        *features, y = batch
        self._right.append(100 * (self(*features).cpu() == y.cpu()).float())
        self._labels.append(y.cpu())

    def on_test_epoch_end(self) -> None:
        right = torch.cat(self._right, 1).unflatten(0, (len(self.features), -1))  # (features, sizes, N)
        y = torch.cat(self._labels)
        self._right = []
        self._labels = []

        self.accuracy = right.mean(2)
        self.per_class = torch.stack([right[:, -1, y == k].mean(1) for k in y.unique()], 1)
        self.log_dict({"test/n": float(len(y))})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Left accuracy against n, right the classes at the largest n."""
        figure = draw_curve(self.accuracy, self.per_class, self.features, self.sizes, data.spec.classes)
        return {"accuracy against training images": figure}
