"""Detectors of generated pictures: one score a picture, judged for each generator. Generated is the positive class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import CatMetric
from torchmetrics.functional.classification import binary_auroc, binary_average_precision

from modules.common.metrics import compute_and_reset
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule

EVERY = -1  # subset of real pictures that all generators' are compared with


def score_of(logits: Tensor) -> Tensor:
    """Log odds of "generated", (B,) float32, of one output (B, 1), or of two (B, 2) for real and generated.

    The cross-entropy of two outputs is the binary one of their difference.

    Raises:
        ValueError: another number of outputs.
    """
    logits = logits.float()
    if logits.dim() != 2 or logits.shape[1] not in (1, 2):
        raise ValueError(f"a detector's output {tuple(logits.shape)}: expected (B, 1) or (B, 2)")
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


class DetectionScores(nn.Module):
    """Accuracies of a detector, overall and for each generator, exact over several processes.

    A generator's accuracy is the mean of that on its pictures and that on the real pictures it is compared with, so
    that 50 is chance whatever their numbers. In percent; auroc and ap in [0, 1], generated is positive.

    Args:
        names: of the generators, in the order of their numbers.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.rows = CatMetric(nan_strategy="error")

    def update(self, score: Tensor, y: Tensor, subset: Tensor) -> None:
        """Log odds (B,), labels (B,) and generators (B,); the subset of a real picture may be -1, all."""
        self.rows.update(torch.stack([score.double(), y.double(), subset.double()], 1))

    def compute(self, trained: Sequence[str] = ()) -> dict[str, float]:
        """By name: acc_<generator>, fake_acc_<generator>, auroc_<generator>, ap_<generator>; real_acc; acc, the mean
        over generators; own and others, the mean over those trained on and over all others; n."""
        rows = compute_and_reset(self.rows).view(-1, 3)
        score, y, subset = rows[:, 0], rows[:, 1] > 0.5, rows[:, 2]
        right = ((score > 0) == y).double() * 100
        real = ~y
        values = {"n": float(len(rows)), "real_acc": float(right[real].mean())}
        for number, name in enumerate(self.names):
            own = y & (subset == number)
            beside = real & ((subset == number) | (subset == EVERY))
            if not own.any() or not beside.any():
                continue
            both = own | beside
            values[f"fake_acc_{name}"] = float(right[own].mean())
            values[f"acc_{name}"] = float((right[own].mean() + right[beside].mean()) / 2)
            values[f"auroc_{name}"] = float(binary_auroc(score[both].sigmoid(), y[both].long()))
            values[f"ap_{name}"] = float(binary_average_precision(score[both].sigmoid(), y[both].long()))
        cells = {name: values[f"acc_{name}"] for name in self.names if f"acc_{name}" in values}
        groups = {"acc": list(cells), "own": [n for n in cells if n in trained]}
        groups["others"] = [n for n in cells if n not in trained] if trained else []
        for group, members in groups.items():
            if members:
                values[group] = sum(cells[name] for name in members) / len(members)
        return values


class Detector(StageModule):
    """A network that tells generated pictures from real ones, by binary cross-entropy.

    Test metrics: those of DetectionScores. Batches are x, y, subset and whatever else `logits` needs.

    Args:
        network: pictures (B, C, H, W) to (B, 1) or (B, 2), see score_of.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self, network: nn.Module, optimizer: OptimizerFactory | None = None, schedule: Schedule | None = None
    ) -> None:
        super().__init__(optimizer, schedule)
        self.network = network
        self.scores: DetectionScores | None = None
        self.kept: dict[str, float] = {}

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def logits(self, batch: Any) -> Tensor:
        return self(batch.x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        score = score_of(self.logits(batch))
        loss = F.binary_cross_entropy_with_logits(score, batch.y.float())
        acc = 100 * ((score > 0) == (batch.y > 0)).float().mean()
        self.track(len(score), loss=loss, acc=acc)
        return loss

    def on_test_epoch_start(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.scores = DetectionScores(data.names).to(self.device)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        assert self.scores is not None
        self.scores.update(score_of(self.logits(batch)), batch.y, batch.subset)

    def on_test_epoch_end(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        assert self.scores is not None
        self.kept = self.scores.compute(data.train_on)
        self.scores = None
        self.log_dict({f"test/{name}": value for name, value in self.kept.items()})
