"""What the paper compares with: concept bottlenecks (Koh et al. 2020) and a ProtoPNet-style net (Chen et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import SumMetric

from modules.common.frozen import Frozen
from modules.common.localisation import PointingGame
from modules.common.module import OptimizerFactory, StageModule
from modules.common.protopnet import Phase
from modules.common.prototypes import PrototypeLayer, class_weights, own_and_other, strongest
from modules.common.schedules import Schedule
from modules.csr.evaluation import MacroF1
from modules.csr.interaction import Doctor, importance, pixels_of
from modules.csr.module import ConceptModel
from modules.csr.networks import ConceptNetwork


class Baseline(StageModule):
    """Evaluation that the baselines share.

    Test metrics, percent: f1, macro-F1; pointing, chance, overlap as of CSR's task head, of concept maps if there are
    any; pointing_any, chance_any: one box or another of the image's concepts; n, images. Validation: f1.

    Args:
        classes: C.
        optimizer, schedule: see StageModule.
    """

    def __init__(
        self, classes: int, optimizer: OptimizerFactory | None = None, schedule: Schedule | None = None
    ) -> None:
        super().__init__(optimizer, schedule)
        self.f1 = MacroF1(classes)
        self.f1_val = MacroF1(classes)
        self.count = SumMetric(nan_strategy="disable")
        self.pointing = PointingGame()
        self.pointing_any = PointingGame(overlaps=False)

    def explain(self, batch: Any) -> tuple[Tensor, Tensor, bool]:
        """Logits (B, C), maps (B, N, h, w), and whether map number k is of concept k."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it shows")

    def image_side(self, batch: Any) -> tuple[int, int]:
        """Height and width of the images, which the data knows where it serves features."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        height, width = getattr(data, "image_side", batch.x.shape[2:])
        return height, width

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.f1_val.update("f1", self(batch.x), batch.y)

    def on_validation_epoch_end(self) -> None:
        self.log_dict({f"val/{name}": value.float() for name, value in self.f1_val.compute().items()})
        self.f1_val.reset()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        logits, maps, of_concepts = self.explain(batch)
        self.f1.update("f1", logits, batch.y)
        self.count.update(float(len(batch.y)))

        boxes, _ = pixels_of(batch.boxes, batch.shows, batch.concepts.shape[1], self.image_side(batch))
        anywhere = boxes.any(1, keepdim=True)  # (B, 1, H, W)
        if of_concepts:
            self.pointing.update(maps, boxes)
            self.pointing_any.update(maps, anywhere & boxes.flatten(2).any(2)[:, :, None, None])
        else:
            self.pointing_any.update(maps, anywhere.expand(-1, maps.shape[1], -1, -1))

    def on_test_epoch_end(self) -> None:
        anywhere = self.pointing_any.compute()
        values = {**self.f1.compute(), **self.pointing.compute(), "n": self.count.compute()}
        values |= {f"{name}_any": anywhere[name] for name in ("pointing", "chance")}
        self.log_dict({f"test/{name}": value.float() for name, value in values.items()})
        for metric in (self.f1, self.count, self.pointing, self.pointing_any):
            metric.reset()


def average(maps: Tensor, weights: Tensor) -> Tensor:
    """Maps (B, K, h, w) averaged over positions by weights (B, h, w) from 0 on -> (B, K); 0 where all weights are 0."""
    total = weights.sum((1, 2)).clamp(min=1e-12)
    return (maps * weights[:, None]).sum((2, 3)) / total[:, None]


class SequentialBottleneck(Baseline):
    """A linear layer on the frozen concept model's probabilities, trained on its maps.

    Further metrics are a control of CSR's interaction: f1_spatial, in validation too, macro-F1 of all images after a
    doctor drew the same boxes on those it looks at; gated, the share of these, percent. Maps are then averaged by
    importance A instead of evenly.

    Args:
        model: the stage that trained the concept model.
        classes, optimizer, schedule: see Baseline.
        doctor: who looks at which images.
    """

    def __init__(
        self,
        model: ConceptModel,
        classes: int,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
        doctor: Doctor | None = None,
    ) -> None:
        super().__init__(classes, optimizer, schedule)
        self.f1 = MacroF1(classes, ["f1", "f1_spatial"])
        self.f1_val = MacroF1(classes, ["f1", "f1_spatial"])
        self.gated = SumMetric(nan_strategy="disable")
        self.doctor = doctor or Doctor()
        self.frozen = Frozen([model.network.head])
        self.last = nn.Linear(model.network.head.out_channels, classes)

    def trained(self) -> Any:
        return self.last.parameters()

    def maps(self, features: Tensor) -> Tensor:
        (head,) = self.frozen.on(features.device)
        with torch.no_grad():
            return head(features)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, c, H, W) -> logits (B, C)."""
        return self.last(self.maps(features).mean((2, 3)).sigmoid())

    def boxed(self, batch: Any, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) after the doctor's boxes, and which images it looked at (B,)."""
        maps = self.maps(batch.x)  # (B, K, h, w)
        boxes, negative = pixels_of(batch.boxes, batch.shows, maps.shape[1], self.image_side(batch))
        weights = importance(boxes.any(1), negative, self.doctor.alpha, (maps.shape[2], maps.shape[3]))
        corrected = self.last(average(maps, weights).sigmoid())

        gated = self.doctor.looks_at(logits)
        return torch.where(gated[:, None], corrected, logits), gated

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self(batch.x)
        self.f1_val.update("f1", logits, batch.y)
        self.f1_val.update("f1_spatial", self.boxed(batch, logits)[0], batch.y)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        corrected, gated = self.boxed(batch, self(batch.x))
        self.f1.update("f1_spatial", corrected, batch.y)
        self.gated.update(gated.float().sum())

    def on_test_epoch_end(self) -> None:
        self.log("test/gated", 100 * self.gated.compute() / self.count.compute())
        self.gated.reset()
        super().on_test_epoch_end()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch.x), batch.y)
        self.track(len(batch.y), loss=loss)
        return loss

    def explain(self, batch: Any) -> tuple[Tensor, Tensor, bool]:
        return self(batch.x), self.maps(batch.x), True


class JointBottleneck(Baseline):
    """Concepts and classes at the same time: L = CE + weight BCE, classes from the concepts' probabilities alone.

    Args:
        network: the concept model.
        classes: C.
        weight: lambda of the concepts' loss.
        last_rate: learning rate of the layer from concepts to classes; None takes the optimiser's.
        optimizer, schedule: see Baseline.
    """

    def __init__(
        self,
        network: ConceptNetwork,
        classes: int,
        weight: float = 1.0,
        last_rate: float | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(classes, optimizer, schedule)
        self.network = network
        self.last = nn.Linear(network.head.out_channels, classes)
        self.weight = weight
        self.last_rate = last_rate

    def trained(self) -> list[dict[str, Any]]:
        last: dict[str, Any] = {"params": list(self.last.parameters())}
        if self.last_rate is not None:
            last["lr"] = self.last_rate
        return [{"params": list(self.network.parameters())}, last]

    def forward(self, x: Tensor) -> Tensor:
        """Images -> logits (B, C)."""
        return self.last(self.network(x).sigmoid())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        concepts = self.network(batch.x)  # (B, K)
        logits = self.last(concepts.sigmoid())
        terms = {
            "ce": F.cross_entropy(logits, batch.y),
            "bce": F.binary_cross_entropy_with_logits(concepts.float(), batch.concepts),
        }
        loss = terms["ce"] + self.weight * terms["bce"]
        self.track(len(batch.y), loss=loss, **terms)
        return loss

    def explain(self, batch: Any) -> tuple[Tensor, Tensor, bool]:
        return self(batch.x), self.network.maps(self.network.encoder(batch.x)), True


@dataclass(frozen=True)
class DistanceWeights:
    """Weights beside cross-entropy, as ProtoPNet's: of the distance to the nearest own prototype, which is pulled, and
    of that to the nearest of another class, which is pushed.
    """

    cluster: float = 0.8
    separation: float = 0.08

    def total(self, cluster: Tensor, separation: Tensor) -> Tensor:
        return self.cluster * cluster + self.separation * separation


class ProtoPNetStyle(Baseline):
    """Prototypes that belong to classes and are trained end to end, without concept labels:

        L = CE + 0.8 min_own d + 0.08 (-min_other d),     scores max over positions of ln((d + 1) / (d + 1e-4))

    What it shows of an image is the largest of the predicted class's maps.

    Args:
        features: c.
        classes, per_class: of prototypes.
        encoder: F, images to features (B, c, H, W), trained too; None where the data is features already.
        channels: D of the add-on layers.
        weights: of the two distances.
        optimizer, schedule: see Baseline.
    """

    def __init__(
        self,
        features: int,
        classes: int,
        per_class: int,
        encoder: nn.Module | None = None,
        channels: int = 64,
        weights: DistanceWeights | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(classes, optimizer, schedule)
        self.encoder = nn.Identity() if encoder is None else encoder
        self.add_on = nn.Sequential(
            nn.Conv2d(features, channels, 1), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 1), nn.Sigmoid()
        )
        self.prototypes = PrototypeLayer(classes, per_class, channels)
        self.last = nn.Linear(len(self.prototypes), classes, bias=False)
        self.weights = weights or DistanceWeights()
        with torch.no_grad():
            self.last.weight.copy_(class_weights(self.prototypes.owner, classes))

    def maps(self, x: Tensor) -> Tensor:
        """Images -> similarity maps (B, P, h, w)."""
        return self.prototypes(self.add_on(self.encoder(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(strongest(self.maps(x))[0])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        z = self.add_on(self.encoder(batch.x))
        logits = self.last(strongest(self.prototypes(z))[0])
        nearest = -self.prototypes.distances(z).flatten(2).amin(2)  # (B, P)
        own, other = own_and_other(nearest, self.prototypes.owner, batch.y)
        terms = {"ce": F.cross_entropy(logits, batch.y), "cluster": -own.mean(), "separation": other.mean()}
        loss = terms["ce"] + self.weights.total(terms["cluster"], terms["separation"])
        self.track(len(batch.y), loss=loss, top1=100 * (logits.argmax(-1) == batch.y).float().mean(), **terms)
        return loss

    def explain(self, batch: Any) -> tuple[Tensor, Tensor, bool]:
        maps = self.maps(batch.x)  # (B, P, h, w)
        logits = self.last(strongest(maps)[0])
        own = self.prototypes.owner == logits.argmax(-1)[:, None]  # (B, P)
        return logits, maps.masked_fill(~own[:, :, None, None], -torch.inf).amax(1, keepdim=True), False


class PhasedProtoPNet(ProtoPNetStyle):
    """A ProtoPNet that was trained in its own phases, with a projection onto training patches; nothing is trained here.

    Args:
        classes: C.
        start: the last of its phases.
    """

    def __init__(self, classes: int, start: Phase) -> None:
        Baseline.__init__(self, classes)
        network = start.network
        self.encoder, self.add_on = network.backbone, network.add_on
        self.prototypes, self.last = network.prototypes, network.last
