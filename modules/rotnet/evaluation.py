"""Accuracy of several predictions side by side, for rotations and for probes of several blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from modules.common.metrics import Classification
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule


class AccuracyModule(StageModule):
    """Top-1 of one or more predictions for every image, in percent, over an epoch of validation or test.

    Args:
        names: what the metrics are called.
        classes: number of classes of each prediction.
        copies: predictions counted for an image under each name; `n` stays the number of images.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        names: Sequence[str],
        classes: int,
        copies: int = 1,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.copies = copies
        self.metrics = {
            split: {name: Classification(classes, ("top1",)) for name in names} for split in ("val", "test")
        }
        for split, metrics in self.metrics.items():  # registered for moves between devices; the dict keeps their type
            self.add_module(f"{split}_metrics", nn.ModuleDict(metrics))

    def predictions(self, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Name of a metric -> logits (n, classes), labels (n,)."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it predicts")

    def update_metrics(self, batch: tuple[Tensor, Tensor], split: str) -> None:
        for name, (logits, labels) in self.predictions(batch).items():
            self.metrics[split][name].update(logits, labels)

    def compute_metrics(self, split: str) -> dict[str, Tensor]:
        """Every metric since the last call, and `n`."""
        scores = {name: metric.compute() for name, metric in self.metrics[split].items()}
        for metric in self.metrics[split].values():
            metric.reset()
        n = next(iter(scores.values()))["n"] / self.copies
        return {**{name: values["top1"] for name, values in scores.items()}, "n": n}

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.update_metrics(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.update_metrics(batch, "test")

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value for name, value in self.compute_metrics("val").items()})

    def on_test_epoch_end(self) -> None:
        self.log_dict({f"test/{name}": value for name, value in self.compute_metrics("test").items()})
