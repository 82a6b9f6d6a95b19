"""Do Input Gradients Highlight Discriminative Features? (Shah, Jain & Netrapalli, NeurIPS 2021).

arXiv 2102.12781. Assumption (A): coordinates with a larger |input gradient| are more discriminative for this image. It
is tested by unmasking a share k of each image's coordinates and training again, from scratch, on what is left:

    A(x)            order of the d coordinates by |d f_yhat / d x_j|, largest first; yhat is what the model predicts
    x^top_k         x where all but the first k d coordinates of A(x) are 0; x^bot_k: all but the last k d
    PredPower(x^S)  accuracy of the same architecture, trained in the standard way on x^S, on test images' x^S
    DiffROAR(k)   = PredPower(x^top_k) - PredPower(x^bot_k)

It is 0 in expectation for a random order, and for k = 100%. The paper finds it at or below 0 for standard models and
clearly positive for adversarially trained ones. On BlockMNIST, whose images are a signal block and a constant block
in random order, gradients of standard models mark the constant block too: features of other images leak (leakage.py).

What deviates, and where paper and released code differ:
- in the released code `top` and `bottom` name what is MASKED; here they name what is kept, as in the paper.
- the released plots are of loss gradients, the paper's text is about logits; both are here, the metric names the kind.
- the released code takes the logit of the true label, which a test image's mask would tell; here the predicted one.
- accuracies are those of the last epoch; in the released code of the best on the test set.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.metrics import Classification
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule


def diffroar(top: Tensor, bottom: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over all pairs of a run on top and a run on bottom coordinates.

    Args:
        top: PredPower of the runs on the largest gradients, (R,).
        bottom: of those on the smallest, (S,).
    Returns:
        mean and standard deviation of the R S differences top - bottom.
    """
    differences = (top[:, None] - bottom[None, :]).flatten()
    return differences.mean(), differences.std(correction=0)


class Retrained(StageModule):
    """The same architecture trained on the top and on the bottom coordinates, R times each.

    All 2 R networks see the same batches; a top and a bottom network share their starting weights. Their losses are
    added, so that each network's gradient is that of its own loss.

    Test metrics: diffroar_<kind>, in points of accuracy, the kind of ranking being the data's; diffroar_<kind>_std,
    over all pairs of runs; power, the accuracy in the mean over both sides. One side alone says little: where pixels
    are kept tells the class too.

    Args:
        network: called for each of R networks.
        classes: number of classes.
        repeats: R.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: fewer than one repeat.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        classes: int,
        repeats: int = 3,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if repeats < 1:
            raise ValueError(f"repeats={repeats}: expected 1 or more")
        super().__init__(optimizer, schedule)
        self.top = nn.ModuleList(network() for _ in range(repeats))
        self.bottom = deepcopy(self.top)
        self.measures = nn.ModuleList(Classification(classes, ("top1",)) for _ in range(2 * repeats))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, classes) of the first network: one PredPower takes a network like it."""
        return self.top[0](x)

    def logits(self, batch: Any) -> list[Tensor]:
        """(B, classes) of each network: R of the top coordinates, then R of the bottom ones."""
        return [net(batch.top) for net in self.top] + [net(batch.bottom) for net in self.bottom]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = torch.stack([F.cross_entropy(logits, batch.y) for logits in self.logits(batch)])  # (2 R,)

        self.track(len(batch.y), loss=losses.mean())
        return losses.sum()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        for logits, measure in zip(self.logits(batch), self.measures, strict=True):
            measure.update(logits, batch.y)  # type: ignore[operator]

    def on_test_epoch_end(self) -> None:
        values = [measure.compute() for measure in self.measures]  # type: ignore[operator]
        powers = torch.stack([value["top1"] for value in values])  # (2 R,)
        mean, deviation = diffroar(*powers.chunk(2))

        kind = self.trainer.datamodule.kind  # type: ignore[attr-defined]
        self.log_dict(
            {
                f"test/diffroar_{kind}": mean,
                f"test/diffroar_{kind}_std": deviation,
                "test/power": powers.mean(),
                "test/n": values[0]["n"],
            }
        )
        for measure in self.measures:
            measure.reset()  # type: ignore[operator]
