"""Comparing how fast trained classifiers learned, by their validation errors epoch by epoch (section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from modules.common.metrics import Classification
from modules.common.module import StageModule
from modules.inception_v4.module import InceptionClassifier
from modules.inception_v4.pictures import curves_picture


def compare_curves(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Two curves of errors (E,) in percent, see Race. Raises ValueError if they are empty or differ in length."""
    if len(first) != len(second) or not len(first):
        raise ValueError(f"validated in {len(first)} and {len(second)} epochs: expected as many, and some")
    lead = second - first
    reached = (first <= second[-1]).nonzero()
    epochs = reached[0, 0] + 1 if len(reached) else torch.tensor(len(first) + 1)
    return {"area_gap": lead.mean(), "lead": lead.min(), "match": epochs.float() / len(first)}


class Race(StageModule):
    """Two trained classifiers, epoch by epoch and on the same test images. Not trained.

    Logs, all from the first one's side and of the averaged weights (see InceptionClassifier): `area_gap`, the
    difference of the areas under the validation error per epoch, in points; `lead`, the smallest lead in any epoch;
    `match`, the share of the epochs after which it is as good as the second one at its end (above 1: never); `gap`, the
    difference of the test accuracies.

    Args:
        first, second: trained for as many epochs.
        classes: number of classes.
    Raises:
        ValueError: at the test, if they were not validated in as many epochs.
    """

    def __init__(self, first: InceptionClassifier, second: InceptionClassifier, classes: int) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.measures = [Classification(classes, ("top1",)) for _ in range(2)]
        for index, measure in enumerate(self.measures):
            self.add_module(f"metrics_{index}", measure)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), self.second(x)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        for measure, logits in zip(self.measures, self(batch[0]), strict=True):
            measure.update(logits, batch[1])

    def on_test_epoch_end(self) -> None:
        first, second = (measure.compute() for measure in self.measures)
        for measure in self.measures:
            measure.reset()
        metrics = compare_curves(self.first.curve, self.second.curve)
        metrics |= {"gap": first["top1"] - second["top1"], "n": first["n"]}
        self.log_dict({f"test/{name}": value for name, value in metrics.items()})


class Curves(StageModule):
    """The validation errors of several trained classifiers in one picture. Not trained, tests nothing itself.

    Logs `test/<name>_last_error`, the validation error after the last epoch in percent.

    Args:
        members: trained classifiers.
        names: one for each of them.
    Raises:
        ValueError: not as many names as members.
    """

    def __init__(self, members: Sequence[InceptionClassifier], names: Sequence[str]) -> None:
        super().__init__()
        if len(names) != len(members):
            raise ValueError(f"names={list(names)}: expected one for each of the {len(members)} members")
        self.members = list(members)
        self.names = list(names)
        self.add_module("networks", nn.ModuleList(members))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (members, B, classes)."""
        return torch.stack([member(x) for member in self.members])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """The errors were measured while training."""

    def on_test_epoch_end(self) -> None:
        pairs = zip(self.names, self.members, strict=True)
        self.log_dict({f"test/{name}_last_error": member.curve[-1] for name, member in pairs})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """All validation errors, epoch by epoch."""
        curves = {name: member.curve.cpu() for name, member in zip(self.names, self.members, strict=True)}
        return {"error by epoch": curves_picture(curves)}
