"""A network trained on hard labels: the teachers, initialisations and baselines of many papers."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.metrics import Classification
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule


class ClassificationModule(StageModule):
    """Evaluation that all image classifiers share: metrics of `self(x)` against the labels, per epoch.

    Args:
        network: (B, C_in, H, W) -> logits (B, classes).
        classes: number of classes.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.network, self.classes = network, classes
        self.val_metrics, self.test_metrics = Classification(classes), Classification(classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.val_metrics.update(self(batch[0]), batch[1])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.test_metrics.update(self(batch[0]), batch[1])

    def on_validation_epoch_end(self) -> None:
        self._report("val", self.val_metrics)

    def on_test_epoch_end(self) -> None:
        self._report("test", self.test_metrics)

    def _report(self, split: str, measure: Classification) -> None:
        self.log_dict({f"{split}/{name}": value for name, value in measure.compute().items()})
        measure.reset()


class Classifier(ClassificationModule):
    """Cross-entropy on hard labels.

    Args:
        network, classes: see ClassificationModule.
        label_smoothing: in [0, 1).
    """

    def __init__(
        self,
        network: nn.Module,
        classes: int,
        label_smoothing: float = 0.0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(network, classes, optimizer, schedule)
        self.label_smoothing = label_smoothing

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        self.track(len(y), loss=loss, top1=100 * (logits.argmax(-1) == y).float().mean())
        return loss
