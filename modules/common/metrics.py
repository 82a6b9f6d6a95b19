"""The metric factory: the same names and conventions in every paper.

`top1`, `top5` are micro averages in percent, `ece` has 15 bins and the L1 norm in [0, 1], `nll` is in nats, `n` is how
many images were counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric, SumMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

CLASSIFICATION = ("top1", "top5", "ece", "nll")


class Classification(torch.nn.Module):
    """Classification metrics from logits, accumulated over an epoch and exact over several processes.

    Ranks are those of the logits: as probabilities, all classes far below the first are 0 and tie.

    Args:
        classes: number of classes C.
        names: which of CLASSIFICATION; `top5` is left out below 6 classes, where it says nothing.
    """

    def __init__(self, classes: int, names: Sequence[str] = CLASSIFICATION) -> None:
        super().__init__()
        if wrong := set(names) - set(CLASSIFICATION):
            raise ValueError(f"unknown metric {min(wrong)!r}; valid: {', '.join(CLASSIFICATION)}")
        made: dict[str, Metric] = {}
        for name in names:
            if name in ("top1", "top5"):
                k = int(name[3:])
                if k < classes:
                    made[name] = MulticlassAccuracy(classes, top_k=k, average="micro", validate_args=False)
            elif name == "ece":
                made[name] = MulticlassCalibrationError(classes, n_bins=15, norm="l1", validate_args=False)
            else:
                # torchmetrics 1.9: MeanMetric without NaN checks drops its weights, so uneven batches count alike
                made[name] = SumMetric(nan_strategy="disable")
        made["n"] = SumMetric(nan_strategy="disable")
        self.metrics = made
        self.unreadable = SumMetric(nan_strategy="disable")  # images whose logits hold NaN, which has no rank
        for name, metric in made.items():  # registered for moves between devices; the dict keeps their type
            self.add_module(name, metric)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """logits (B, C), labels (B,) int64."""
        logits = logits.float()
        self.unreadable.update(logits.isnan().any(-1).sum())
        for name, metric in self.metrics.items():
            if name == "nll":
                metric.update(F.cross_entropy(logits, labels, reduction="sum"))
            elif name == "n":
                metric.update(float(len(labels)))
            elif name == "ece":
                metric.update(logits.softmax(-1), labels)
            else:
                metric.update(logits, labels)

    def compute(self) -> dict[str, Tensor]:
        """Every metric by name; needs at least one update. Raises ValueError if logits of an image held NaN."""
        if unreadable := int(self.unreadable.compute()):
            raise ValueError(f"the logits of {unreadable} of {int(self.metrics['n'].compute())} images hold NaN")
        values = {name: metric.compute() for name, metric in self.metrics.items()}
        scale = {"top1": 100.0, "top5": 100.0, "nll": 1 / values["n"]}
        return {name: value * scale.get(name, 1.0) for name, value in values.items()}

    def reset(self) -> None:
        for metric in (*self.metrics.values(), self.unreadable):
            metric.reset()


class Means(Metric):
    """Means over images of several values at once, exact over several processes; `n` is the number of images.

    Args:
        names: of the values.
    """

    full_state_update = False
    totals: Tensor
    count: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.add_state("totals", torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Every name's (B,)."""
        self.totals += torch.stack([values[name].double().sum() for name in self.names])
        self.count += len(values[self.names[0]])

    def compute(self) -> dict[str, Tensor]:
        means = (self.totals / self.count.clamp(min=1)).float()
        return {**dict(zip(self.names, means, strict=True)), "n": self.count.float()}


def compute_and_reset(metric: Any) -> Any:
    """A metric's value; the metric starts anew."""
    value = metric.compute()
    metric.reset()
    return value
