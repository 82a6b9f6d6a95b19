"""Classifiers on features, trained side by side: linear probes and other heads on frozen layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.metrics import Classification
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule


class Probe(StageModule):
    """One head for each kind of features, all trained in one run; a subclass says in `features` what they see.

    The heads share no parameter, and their losses are added: each gets the gradient that it would have alone.

    Metrics: `<split>/<name>_top1`, percent, without the name for `headline` or a head that is alone; the same of the
    training batches as train/; `n`, images.

    Args:
        heads: name -> network from features to logits (B, classes).
        classes: number of classes.
        headline: the head that the paper reports.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        heads: Mapping[str, nn.Module],
        classes: int,
        headline: str | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.heads = nn.ModuleDict(heads)
        single = len(heads) == 1
        self.metric_names = {name: "top1" if single or name == headline else f"{name}_top1" for name in heads}
        self.metrics = {
            split: {name: Classification(classes, ("top1", "nll")) for name in heads} for split in ("val", "test")
        }
        for split, metrics in self.metrics.items():  # registered for moves between devices; the dict keeps their type
            self.add_module(f"{split}_metrics", nn.ModuleDict(metrics))

    def trained(self) -> Any:
        return self.heads.parameters()

    def features(self, batch: Any) -> dict[str, Tensor]:
        """What each head sees of a batch, by its name."""
        raise NotImplementedError(f"{type(self).__name__} does not say which features it probes")

    def classify(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features by name -> logits (B, classes) by name."""
        return {name: head(features[name]) for name, head in self.heads.items()}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        y = batch.y
        every_logits = self.classify(self.features(batch))
        loss = torch.stack([F.cross_entropy(logits, y) for logits in every_logits.values()]).sum()
        hits = {name: (logits.argmax(-1) == y).float().mean() for name, logits in every_logits.items()}
        self.track(len(y), loss=loss, **{self.metric_names[name]: 100 * share for name, share in hits.items()})
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.update_metrics("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.update_metrics("test", batch)

    def update_metrics(self, split: str, batch: Any) -> None:
        for name, logits in self.classify(self.features(batch)).items():
            self.metrics[split][name].update(logits, batch.y)

    def on_validation_epoch_end(self) -> None:
        self.report("val")

    def on_test_epoch_end(self) -> None:
        self.report("test")

    def report(self, split: str) -> dict[str, Tensor]:
        """Log an epoch's metrics and start anew; returns the mean cross-entropy of each head."""
        scores = {name: metric.compute() for name, metric in self.metrics[split].items()}
        for metric in self.metrics[split].values():
            metric.reset()
        self.log_dict({f"{split}/{self.metric_names[name]}": values["top1"] for name, values in scores.items()})
        self.log(f"{split}/n", next(iter(scores.values()))["n"])
        return {name: values["nll"] for name, values in scores.items()}


def keep_for_a_loss(outputs: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
    """Copies of inference tensors, which cannot take part in a loss themselves."""
    return {name: output.clone() for name, output in outputs.items()}
