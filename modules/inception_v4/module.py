"""Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning (Szegedy et al., AAAI 2017).

arXiv 1602.07261. Inception blocks run branches of convolutions side by side and concatenate them. Inception-ResNet
blocks add what the branches found to their own input, scaled by s = 0.1 to 0.3 in wide networks (sections 3.2, 3.3).
The residual networks train much faster (section 5); the final accuracy differs little. The networks are in
modules.common.inception_networks, with what deviates in them. Here: the training, the comparison of its curves, and
how activations grow with s.

What deviates in the training, and why:
- The running average of the weights takes TensorFlow's smaller decay in its first updates, so that the initial weights
  do not stay in it; batch statistics are averaged too, because those of the last weights do not fit the average.
- Batch norm's parameters and biases get no L2 penalty: slim penalises the weights of convolutions and linear layers.
- Inception-v3 is trained like the others, without the label smoothing and the auxiliary classifier of its own paper:
  a comparison of architectures should differ in nothing else. Both are switches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MaxMetric, SumMetric

from modules.common.averaging import WeightAverage
from modules.common.classifier import ClassificationModule
from modules.common.metrics import Classification
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule
from modules.inception_v4.networks import Inception


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
        self.auxiliary_weight, self.label_smoothing = auxiliary_weight, label_smoothing
        self.tolerant, self.mistakes = tolerant, mistakes
        self.register_buffer("curve", torch.empty(0))
        self.register_buffer("broken", torch.tensor(0.0))
        self.raw_metrics = Classification(classes, ("top1",))
        self.peaks = Peaks(network.out_channels)
        own = [name for name, _ in self.named_buffers() if name.startswith(("average.", "curve", "broken"))]
        self._ddp_params_and_buffers_to_ignore = own  # every process arrives at the same ones, `broken` at its own

    def trained(self) -> list[dict[str, Any]]:
        weights = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        return [{"params": weights}, {"params": others, "weight_decay": 0.0}]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits, auxiliary = self.network.both(x)  # (B, classes) each
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        if auxiliary is not None:
            loss = loss + self.auxiliary_weight * F.cross_entropy(auxiliary, y, label_smoothing=self.label_smoothing)
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
        found = measure.compute()
        if split == "val":
            self.curve = torch.cat([self.curve, 100 - found["top1"].reshape(1).to(self.curve)])
        else:
            if len(self.curve):
                found["curve_error"] = self.curve.mean()
            raw = self.raw_metrics.compute()["top1"]
            self.raw_metrics.reset()
            at_chance = raw < 1.5 * 100 / self.classes
            found |= {"raw_top1": raw, "raw_dead": self.peaks.dead()}
            found["raw_collapsed"] = (at_chance | (self.broken > 0)).float()
        self.log_dict({f"{split}/{name}": value for name, value in found.items()})
        measure.reset()

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
        sure, guess = p.max(-1)
        order = sure.masked_fill(guess == y, -1).argsort(descending=True)[:8]
        wrong = [int(i) for i in order if guess[i] != y[i]]
        if not wrong:
            return {}
        mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (data.spec.mean, data.spec.std))
        figure = Figure(figsize=(9, 1.9), layout="constrained")
        for ax, i in zip(figure.subplots(1, len(wrong), squeeze=False)[0], wrong, strict=True):
            ax.imshow((x[i].cpu() * std + mean).clamp(0, 1).permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
            names = data.spec.classes
            ax.set_title(f"{names[int(guess[i])]} {float(sure[i]):.2f}\nis {names[int(y[i])]}", fontsize=8)
            ax.axis("off")
        return {"surest mistakes": figure}


class Peaks(MaxMetric):
    """The largest pooled activation of each channel, over an epoch and all processes."""

    def __init__(self, channels: int) -> None:
        super().__init__(nan_strategy="disable")
        self.add_state("max_value", torch.zeros(channels), dist_reduce_fx="max")

    def update(self, pooled: Tensor) -> None:  # type: ignore[override]
        """(B, C); what is not finite counts as silent."""
        self.max_value = torch.maximum(self.max_value, pooled.float().nan_to_num(0.0, 0.0, 0.0).amax(0))

    def dead(self) -> Tensor:
        """Channels that never rose above 0, percent; starts anew."""
        share = 100 * (self.compute() <= 0).float().mean()
        self.reset()
        return share


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
        self.first, self.second = first, second
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
        found = {**race(self.first.curve, self.second.curve), "gap": first["top1"] - second["top1"], "n": first["n"]}
        for measure in self.measures:
            measure.reset()
        self.log_dict({f"test/{name}": value for name, value in found.items()})


def race(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Two curves of errors (E,) in percent, see Race. Raises ValueError if they are empty or differ in length."""
    if len(first) != len(second) or not len(first):
        raise ValueError(f"validated in {len(first)} and {len(second)} epochs: expected as many, and some")
    lead = second - first
    reached = (first <= second[-1]).nonzero()
    epochs = reached[0, 0] + 1 if len(reached) else torch.tensor(len(first) + 1)
    return {"area_gap": lead.mean(), "lead": lead.min(), "match": epochs.float() / len(first)}


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
        self.members, self.names = list(members), list(names)
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
        figure = Figure(figsize=(7, 4), layout="constrained")
        ax = figure.subplots()
        for name, member in zip(self.names, self.members, strict=True):
            ax.plot(range(1, len(member.curve) + 1), member.curve.cpu(), marker="o", markersize=3, label=name)
        ax.set(xlabel="epoch", ylabel="validation error, %", ylim=(0, 100))
        ax.legend(fontsize=8)
        return {"error by epoch": figure}


class Growth(StageModule):
    """How much larger the activations behind the last block are than behind the stem, at initialisation.

    The same random weights with several s, on one batch after the other with the statistics of that batch. Logs
    standard deviations: `test/stem`, `test/last_<s>`, and `test/growth_<s>`, the ratio of the two. Not trained.

    Args:
        network: makes an Inception-ResNet.
        scales: the values of s.
    """

    def __init__(self, network: Callable[[], Inception], scales: Sequence[float]) -> None:
        super().__init__()
        self.network, self.scales = network(), list(scales)
        names = ["stem", *(f"{kind}_{s:g}" for kind in ("last", "growth") for s in self.scales)]
        self.sums = {name: SumMetric(nan_strategy="disable") for name in [*names, "batches"]}
        for number, metric in enumerate(self.sums.values()):  # a module's name may hold no dot
            self.add_module(f"sum_{number}", metric)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def deviations(self, x: Tensor, scale: float) -> Tensor:
        """Standard deviation of the activations behind each layer, from the stem on, with that s; (layers,)."""
        self.network.train()  # batch statistics
        self.network.rescale(scale)
        found = [layer.float().std() for layer in self.network.layers(x)]
        return torch.stack(found[self.network.ends[0] - 1 :])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        last = self.network.ends[-1] - self.network.ends[0]
        for scale in self.scales:
            found = self.deviations(batch[0], scale)
            self.sums[f"last_{scale:g}"].update(found[last])
            self.sums[f"growth_{scale:g}"].update(found[last] / found[0])
        self.sums["stem"].update(found[0])
        self.sums["batches"].update(1.0)

    def on_test_epoch_end(self) -> None:
        found = {name: metric.compute() for name, metric in self.sums.items()}
        batches = found.pop("batches")
        self.log_dict({f"test/{name}": value / batches for name, value in found.items()})
        for metric in self.sums.values():
            metric.reset()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Activations layer by layer, for every s."""
        x = next(iter(data.test_dataloader()))[0].to(self.device)
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        ax = figure.subplots()
        for scale in self.scales:
            ax.plot(self.deviations(x, scale).cpu(), marker="o", markersize=3, label=f"s = {scale:g}")
        ax.set(xlabel="layers after the stem", ylabel="standard deviation", ylim=(0, None))
        ax.legend(fontsize=8)
        return {"activations by depth": figure}
