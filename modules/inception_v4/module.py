"""Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning (Szegedy et al., AAAI 2017).

arXiv 1602.07261. Inception blocks run branches of convolutions side by side and concatenate them. Inception-ResNet
blocks add their branches to their own input, scaled by s = 0.1 to 0.3 in wide networks (sections 3.2, 3.3).
The residual networks train much faster (section 5); the final accuracy differs little. The networks are
in networks.py and architectures.py, with what deviates in them. Here: the training.

What deviates in the training, and why:
- The running average of the weights takes TensorFlow's smaller decay in its first updates, so that the initial weights
  do not stay in it; batch statistics are averaged too, because those of the last weights do not fit the average.
- Batch norm's parameters and biases get no L2 penalty: slim penalises the weights of convolutions and linear layers.
- Inception-v3 is trained like the others, without the label smoothing and the auxiliary classifier of its own paper:
  a comparison of architectures should differ in nothing else. Both are switches.
"""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from modules.common.averaging import WeightAverage
from modules.common.classifier import ClassificationModule
from modules.common.metrics import Classification
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.inception_v4.networks import Inception
from modules.inception_v4.peaks import Peaks
from modules.inception_v4.pictures import mistakes_picture


def total_loss(
    logits: Tensor, auxiliary: Tensor | None, labels: Tensor, weight: float = 0.4, label_smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of the network plus `weight` times that of the auxiliary classifier; (B, C), (B, C), (B,)."""
    loss = F.cross_entropy(logits, labels, label_smoothing=label_smoothing)
    if auxiliary is None:
        return loss
    return loss + weight * F.cross_entropy(auxiliary, labels, label_smoothing=label_smoothing)


class InceptionClassifier(ClassificationModule):
    """A network trained on hard labels, evaluated with a running average of its weights.

    Validation and test use the average where there is one: `val/...`, `test/top1`, `top5`, `ece`, `nll` and
    `test/curve_error`, the mean over epochs of the validation error in percent (the area under its curve, per epoch).
    Those with `raw_` are of the last weights: `test/raw_top1`; `test/raw_dead`, how many channels of the last map, in
    percent, are 0 for every test image; `test/raw_collapsed`, 1 if a training loss was not finite or raw_top1 is below
    1.5 times chance, else 0.

    Args:
        network: see Inception.
        classes: number of classes.
        average_decay: of the running average; None evaluates the last weights.
        auxiliary_weight: of the auxiliary classifier's loss, if the network has one.
        label_smoothing: in [0, 1).
        tolerant: go on when the loss is no longer finite, to count such networks instead of failing. A network whose
            outputs are not finite then predicts all classes alike.
        mistakes: draw the test images that it gets wrong.
        optimizer, schedule: see StageModule. Batch norm and biases get no weight decay.
    """

    curve: Tensor  # validation error of each epoch, percent
    broken: Tensor  # how many training losses were not finite

    def __init__(
        self,
        network: Inception,
        classes: int,
        average_decay: float | None = None,
        auxiliary_weight: float = 0.4,
        label_smoothing: float = 0.0,
        tolerant: bool = False,
        mistakes: bool = False,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(network, classes, optimizer, schedule)
        self.network: Inception = network
        self.average = None if average_decay is None else WeightAverage(network, average_decay)
        self.auxiliary_weight = auxiliary_weight
        self.label_smoothing = label_smoothing
        self.tolerant = tolerant
        self.mistakes = mistakes
        self.register_buffer("curve", torch.empty(0))
        self.register_buffer("broken", torch.tensor(0.0))
        self.raw_metrics = Classification(classes, ("top1",))
        self.peaks = Peaks(network.out_channels)
        unshared = [name for name, _ in self.named_buffers() if name.startswith(("average.", "curve", "broken"))]
        self._ddp_params_and_buffers_to_ignore = unshared  # every process arrives at the same ones, `broken` at its own

    def trained(self) -> list[dict[str, Any]]:
        weights = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        return [{"params": weights}, {"params": others, "weight_decay": 0.0}]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits, auxiliary = self.network.both(x)  # (B, classes) each
        loss = total_loss(logits, auxiliary, y, self.auxiliary_weight, self.label_smoothing)
        if self.tolerant:
            self.broken += ~loss.detach().isfinite()
            loss = loss.nan_to_num(0.0, 1e4)
        self.track(len(y), loss=loss, top1=100 * (logits.argmax(-1) == y).float().mean())
        return loss

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        self.broken.copy_(self.trainer.strategy.reduce(self.broken, reduce_op="mean"))  # above 0 everywhere, or nowhere

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        if self.average is not None:
            self.average.update(self.network)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> logits (B, classes), of the averaged weights outside of training."""
        average = None if self.training else self.average
        logits = self.network(x) if average is None else average.call(self.network, x)
        return logits.nan_to_num(0.0, 0.0, 0.0) if self.tolerant else logits

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        pooled = self.network.pooled(batch[0])
        self.peaks.update(pooled)
        self.raw_metrics.update(self.network.decide(pooled).nan_to_num(0.0, 0.0, 0.0), batch[1])

    def _report(self, split: str, measure: Classification) -> None:
        metrics = measure.compute()
        measure.reset()
        if split == "val":
            self.curve = torch.cat([self.curve, 100 - metrics["top1"].reshape(1).to(self.curve)])
        elif len(self.curve):
            metrics["curve_error"] = self.curve.mean()
        if split == "test":
            metrics |= self._raw_metrics()
        self.log_dict({f"{split}/{name}": value for name, value in metrics.items()})

    def _raw_metrics(self) -> dict[str, Tensor]:
        """Of the last weights, see the class."""
        top1 = self.raw_metrics.compute()["top1"]
        self.raw_metrics.reset()
        at_chance = top1 < 1.5 * 100 / self.classes
        return {
            "raw_top1": top1,
            "raw_dead": self.peaks.dead(),
            "raw_collapsed": (at_chance | (self.broken > 0)).float(),
        }

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if prefix + "curve" in state_dict:  # as long as the training that made it
            self.curve = torch.empty_like(state_dict[prefix + "curve"], device=self.curve.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def pictures(self, data: Any) -> dict[str, Figure]:
        """The test images that the network is surest of among those it gets wrong."""
        if not self.mistakes:
            return {}
        x, y = next(iter(data.test_dataloader()))
        p = self(x.to(self.device)).float().softmax(-1).cpu()
        figure = mistakes_picture(x.cpu(), y.cpu(), p, data.spec)
        return {} if figure is None else {"surest mistakes": figure}
