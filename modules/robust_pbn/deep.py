"""The deep version (arXiv 2412.15499): components are channels of a convolutional network, learnt in three phases.

    phase 1   Parts         components of two views agree and all are used:    (epoch / E) L_A + 5 L_T
    phase 2   HeadOnly      the head alone, on components that stay as they are
    phase 3   EndToEnd      upper layers and head together, from where phase 2 ended

A component's map is a softmax over channels at every place, d_k its largest value in the image. The released CBC head
is trained by the margin loss alone, the released RBF and PIP-Net heads by another loop (released.py). Here CBC and RBF
heads also start from the same phase 1 and are crossed with the losses, so that what the head does is told apart from
what the loss does.

Where paper and released code differ, or ours differs from both:
- rates are constant: the released CBC schedules are stepped with numbers that never let them fall.
- phase 2 leaves the components bit-equal, batch statistics and stochastic depth included; the released code trains the
  head on components in training mode.
- the last epoch is tested; the released code keeps the epoch that is best on the test set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics import SumMetric

from modules.common.classifier import ClassificationModule
from modules.common.frozen import Frozen
from modules.common.metrics import Classification
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Schedule
from modules.robust_pbn.backbones import PartNetwork, Start, clear_absent, count_present
from modules.robust_pbn.heads import Head
from modules.robust_pbn.losses import alignment_loss, tanh_loss
from modules.robust_pbn.networks import Reading, rank, right_concepts
from modules.robust_pbn.pictures import draw_explanation

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Weights:
    """Of the three terms after phase 1: classification, alignment L_A and L_T."""

    classes: float = 1.0
    align: float = 0.0
    tanh: float = 0.0


class Parts(StageModule):
    """Phase 1: components without labels, the head not involved. Batches have two views, `x` and `x2`.

    Test metrics: `present`, components with d >= 0.1 in an image, the mean; `used`, components that reach 0.1 in any
    test image.

    Args:
        start: whose backbone to go on from.
        tanh_weight: of L_T.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        start: ClassificationModule,
        tanh_weight: float = 5.0,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        assert isinstance(start.network, Start)
        self.parts = PartNetwork(start.network.backbone)
        self.parts.tune()
        self.tanh_weight = tanh_weight
        self.images, self.present = SumMetric(nan_strategy="disable"), SumMetric(nan_strategy="disable")
        self.register_buffer("highest", torch.zeros(self.parts.count), persistent=False)
        self.highest: Tensor

    def trained(self) -> Any:
        return [p for p in self.parts.parameters() if p.requires_grad]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> d (B, K)."""
        return self.parts(x)[1]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        maps, d = self.parts(torch.cat([batch.x, batch.x2]))  # (2B, K, H, W), (2B, K)

        align = alignment_loss(*maps.chunk(2))
        first, second = d.chunk(2)
        tanh = (tanh_loss(first) + tanh_loss(second)) / 2
        loss = self.align_weight() * align + self.tanh_weight * tanh

        self.track(len(batch.x), loss=loss, align=align, tanh=tanh, present=count_present(d).float().mean())
        return loss

    def align_weight(self) -> float:
        """Rises from 1/E to 1 over the E epochs."""
        epochs = self.trainer.max_epochs
        assert epochs is not None
        return (self.current_epoch + 1) / epochs

    def test_step(self, batch: Any, batch_idx: int) -> None:
        d = self(batch.x)
        self.images.update(len(d))
        self.present.update(count_present(d).sum())
        self.highest.copy_(torch.maximum(self.highest, d.amax(0)))

    def on_test_epoch_end(self) -> None:
        highest = self.trainer.strategy.reduce(self.highest, reduce_op="max")
        self.log("test/present", self.present.compute() / self.images.compute())
        self.log("test/used", (highest >= 0.1).float().sum())
        self.present.reset()
        self.images.reset()


class PartClassifier(ClassificationModule):
    """What all after phase 1 share: a head on detections, its loss, and a test with small detections set to 0.

    Test metrics beside accuracy: `present`, how many components there are in an image, and of heads that reason
    `negative_share`, how much of it is negative, in [0, 1].

    Args:
        head: with one concept for each class.
        classes: number of classes.
        loss: see losses; it sees the head's scores.
        weights: of the classification loss and of phase 1's terms.
        optimizer, schedule: see StageModule.
    """

    network: Head

    def __init__(
        self,
        head: Head,
        classes: int,
        loss: Loss,
        weights: Weights,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(head, classes, optimizer, schedule)
        names = ("top1", "top5")
        self.val_metrics, self.test_metrics = Classification(classes, names), Classification(classes, names)
        self.loss, self.weights = loss, weights
        self.present = SumMetric(nan_strategy="disable")

    @property
    def head(self) -> Head:
        return self.network

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images -> maps (B, K, H, W) and d (B, K)."""
        raise NotImplementedError(f"{type(self).__name__} has no components")

    def score(self, d: Tensor) -> Tensor:
        """d (B, K) -> (B, classes), in fp32: margins are small."""
        with torch.autocast(d.device.type, enabled=False):
            return self.head(d.float())

    def forward(self, x: Tensor) -> Tensor:
        """Images -> scores of the classes as they are tested."""
        return self.score(clear_absent(self.look(x)[1]))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        maps, d = self.look(torch.cat([batch.x, batch.x2]))  # (2B, K, H, W), (2B, K)
        y = batch.y.repeat(2)

        scores = self.score(d)  # (2B, classes)
        terms = self.terms(maps, d, scores, y)
        loss = sum((getattr(self.weights, name) * term for name, term in terms.items()), scores.new_zeros(()))

        self.track(len(batch.y), loss=loss, top1=100 * (scores.argmax(1) == y).float().mean(), **terms)
        return loss

    def terms(self, maps: Tensor, d: Tensor, scores: Tensor, y: Tensor) -> Mapping[str, Tensor]:
        """The terms that have a weight, by name."""
        reading = Reading(scores, d, 1, no_radius)
        terms = {"classes": self.loss(reading, right_concepts(y, self.classes, 1), y).mean()}
        if self.weights.align:
            terms["align"] = alignment_loss(*maps.chunk(2))
        if self.weights.tanh:
            first, second = d.chunk(2)
            terms["tanh"] = (tanh_loss(first) + tanh_loss(second)) / 2
        return terms

    def on_train_batch_end(self, *_: Any) -> None:
        self.head.constrain()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.val_metrics.update(rank(self(batch[0])), batch[1])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        _, d = self.look(batch[0])
        self.present.update(count_present(d).sum())
        self.test_metrics.update(rank(self.score(clear_absent(d))), batch[1])

    def on_test_epoch_end(self) -> None:
        self.log("test/present", self.present.compute() / self.test_metrics.metrics["n"].compute())
        self.present.reset()
        super().on_test_epoch_end()
        if (reasoning := self.head.reasoning()) is not None:
            self.log("test/negative_share", reasoning[1].sum(0).mean())

    @torch.no_grad()
    def pictures(self, data: Any) -> dict[str, Figure]:
        """The first test image, the components that speak most for its class by being there and by not being there."""
        reasoning = self.head.reasoning()
        if reasoning is None:
            return {}
        x, y = next(iter(data.test_dataloader()))[:2]
        maps, d = self.look(x[:1].to(self.device))
        d = clear_absent(d)
        best = int(self.score(d)[0].argmax())
        shown = explain(d[0], reasoning[0][:, best], reasoning[1][:, best])
        names = data.spec.classes
        title = f"labelled {names[int(y[0])]}\nseen as {names[best]}"
        return {"explanation": draw_explanation(data.shown(x[:1])[0], maps[0].float().cpu(), shown, title)}


def no_radius(right: Tensor) -> Tensor:
    raise ValueError("the deep network has no certificate: its components are no distances")


def explain(d: Tensor, positive: Tensor, negative: Tensor, count: int = 3) -> Sequence[tuple[str, int, float]]:
    """The largest parts of one class's agreement: (words, component, what it adds), `count` of each kind.

    Args:
        d: detections (K,) of one image.
        positive, negative: r+, r- (K,) of the class.
    """
    parts = []
    for words, shares in (("there", d * positive), ("not there", (1 - d) * negative)):
        values, indices = shares.topk(min(count, len(shares)))
        parts += [(words, int(k), float(value)) for k, value in zip(indices, values, strict=True) if value > 0]
    return parts


class HeadOnly(PartClassifier):
    """Phase 2: the head alone learns. The components stay as they are, batch statistics included.

    Args:
        parts: phase 1.
        head: called with K and the number of classes.
        others: see PartClassifier.
    """

    def __init__(
        self,
        parts: Parts,
        head: Callable[[int, int], Head],
        classes: int,
        loss: Loss,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(head(parts.parts.count, classes), classes, loss, Weights(), optimizer, schedule)
        self.parts = Frozen([parts.parts])

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        (parts,) = self.parts.on(x.device)
        with torch.no_grad():
            return parts(x)


class EndToEnd(PartClassifier):
    """Phase 3: the upper layers and the head learn together.

    Args:
        parts: phase 1.
        head: phase 2, whose head and loss are kept.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self,
        parts: Parts,
        head: HeadOnly,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(head.head, head.classes, head.loss, Weights(), optimizer, schedule)
        self.parts = parts.parts
        self.parts.tune()

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.parts(x)

    def trained(self) -> Any:
        return [p for p in self.parameters() if p.requires_grad]
