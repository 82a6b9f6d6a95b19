"""ProtoPNet (Chen et al. 2019, arXiv 1806.10574): a patch of a training image stands for each prototype.

It is trained in phases, each of them a stage: `warm` (add-on layers and prototypes), `joint` (these and the backbone),
`push` (every prototype becomes the nearest training patch of its class), `last` (the last layer alone). The loss is the
same in all:

    L = CE + 0.8 L_clst + 0.08 L_sep + 1e-4 |W of wrong classes|_1

A phase runs in training mode throughout, frozen layers' batch norms included, as released. Adam's moments begin anew
with every stage; in the released code those of the joint phase live on through pushes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.classifier import ClassificationModule
from modules.common.inference import inference, training_images
from modules.common.module import OptimizerFactory
from modules.common.prototypes import (
    NearestPatches,
    PrototypeLayer,
    activation_boxes,
    class_weights,
    draw_prototypes,
    own_and_other,
    strongest,
    wrong_class_l1,
)
from modules.common.schedules import Schedule

PARTS = ("backbone", "add_on", "prototypes", "last")  # what a phase may train


class ProtoPNet(nn.Module):
    """Images to logits by their similarities to prototypes. (B, 3, S, S) -> (B, classes).

        z = sigmoid(conv(relu(conv(f(x)))))       in (0, 1), D channels
        g_j = max over positions of ln((d_j + 1) / (d_j + 1e-4)),    logits = W g

    W has no bias and starts with 1 for a class's own prototypes and -0.5 elsewhere.

    Args:
        backbone: f, with `features` channels.
        features: channels of f(x).
        classes, per_class: of prototypes.
        channels: D.
    """

    def __init__(
        self, backbone: nn.Module, features: int, classes: int, per_class: int = 10, channels: int = 128
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.add_on = nn.Sequential(
            nn.Conv2d(features, channels, 1), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 1), nn.Sigmoid()
        )
        for layer in self.add_on:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        self.prototypes = PrototypeLayer(classes, per_class, channels)
        self.last = nn.Linear(len(self.prototypes), classes, bias=False)
        with torch.no_grad():
            self.last.weight.copy_(class_weights(self.prototypes.owner, classes))

    def features(self, x: Tensor) -> Tensor:
        """z (B, D, H, W)."""
        return self.add_on(self.backbone(x))

    def classify(self, similarities: Tensor) -> Tensor:
        """(B, P, H, W) -> logits (B, classes)."""
        return self.last(strongest(similarities)[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.prototypes(self.features(x)))


def cluster_and_separation(distances: Tensor, owner: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """How near the nearest own prototype is, and how near the nearest one of another class; means over the batch.

        L_clst = mean_x min_{j of y} d_j(x),    L_sep = -mean_x min_{j not of y} d_j(x)

    Args:
        distances: d (B, P), squared, the smallest of all positions.
        owner: (P,).
        y: (B,).
    Returns:
        L_clst, L_sep.
    """
    own, other = own_and_other(-distances, owner, y)
    return -own.mean(), other.mean()


@dataclass(frozen=True)
class LossWeights:
    """Weights of cross-entropy, L_clst, L_sep and the L1 norm of the wrong classes' part of W."""

    ce: float = 1.0
    cluster: float = 0.8
    separation: float = 0.08
    l1: float = 1e-4

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        weighted = [getattr(self, name) * term for name, term in terms.items()]
        return sum(weighted[1:], weighted[0])


class Phase(ClassificationModule):
    """Training of some parts of a ProtoPNet; the others keep their weights.

    Args:
        classes: number of classes.
        rates: learning rate of each part that is trained: backbone, add_on, prototypes, last.
        network: what to begin with; not needed with `start`.
        start: a stage whose network to go on with.
        weight_decay: of backbone and add-on layers, biases too.
        weights: of the terms of the loss.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: neither or both of network and start, or an unknown part.
    """

    network: ProtoPNet

    def __init__(
        self,
        classes: int,
        rates: Mapping[str, float],
        network: ProtoPNet | None = None,
        start: Phase | None = None,
        weight_decay: float = 1e-3,
        weights: LossWeights | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if (network is None) == (start is None):
            raise ValueError("expected either network, or start from needs: {start: <stage>}")
        for part in rates:
            if part not in PARTS:
                raise ValueError(f"rates: {part!r}: expected one of {', '.join(PARTS)}")
        super().__init__(network if start is None else start.network, classes, optimizer, schedule)  # type: ignore[arg-type]
        self.rates = dict(rates)
        self.weight_decay = weight_decay
        self.weights = weights or LossWeights()
        for part in PARTS:
            self.network.get_submodule(part).requires_grad_(part in self.rates)

    def trained(self) -> list[dict[str, Any]]:
        decay = {"backbone": self.weight_decay, "add_on": self.weight_decay}
        return [
            {
                "params": list(self.network.get_submodule(part).parameters()),
                "lr": rate,
                "weight_decay": decay.get(part, 0.0),
            }
            for part, rate in self.rates.items()
        ]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        net = self.network
        z = net.features(batch.x)  # (B, D, H, W)

        logits = net.classify(net.prototypes(z))  # (B, classes)
        distances = net.prototypes.distances(z).flatten(2).amin(2)  # (B, P)
        cluster, separation = cluster_and_separation(distances, net.prototypes.owner, batch.y)
        terms = {
            "ce": F.cross_entropy(logits, batch.y),
            "cluster": cluster,
            "separation": separation,
            "l1": wrong_class_l1(net.last.weight, net.prototypes.owner),
        }
        loss = self.weights.total(terms)

        self.track(len(batch.y), loss=loss, top1=100 * (logits.argmax(-1) == batch.y).float().mean(), **terms)
        return loss


class Push(Phase):
    """Every prototype becomes a patch of a training image of its class, in one pass over the images as they are.

    By default the patch nearest to it. Batches have the column `row`, and the stage's configuration says
    `trainer: {max_epochs: 1, devices: 1, strategy: auto}` and no augmentation.

    Args:
        start: the stage whose network's prototypes are pushed.
        patches: another pushed stage, whose very patches are taken instead.
    """

    def __init__(self, classes: int, start: Phase, patches: Push | None = None) -> None:
        super().__init__(classes, {}, start=start)
        self.automatic_optimization = False
        self.search = NearestPatches(self.network.prototypes)
        self.chosen = patches is not None
        if patches is not None:
            self.network.prototypes.row.copy_(patches.network.prototypes.row)
            self.network.prototypes.place.copy_(patches.network.prototypes.place)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        net = self.network
        with inference(net):
            z = net.features(batch.x)  # (B, D, H, W)
            if self.chosen:
                self.copy_patches(z, batch.row)
            else:
                self.search.update(net.prototypes, z, batch.y, batch.row)

    def copy_patches(self, z: Tensor, row: Tensor) -> None:
        """Of the images of this batch, put the patches that are asked for in their prototypes' places."""
        layer = self.network.prototypes
        prototype, image = (layer.row[:, None] == row).nonzero(as_tuple=True)
        i, j = layer.place[prototype].T
        layer.vectors.data[prototype] = z[image, :, i, j][:, :, None, None].to(layer.vectors)

    def on_train_epoch_end(self) -> None:
        if not self.chosen:
            self.search.push(self.network.prototypes)
        super().on_train_epoch_end()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """The first prototypes, each as a box in the training image it is a patch of."""
        layer = self.network.prototypes
        count = min(24, len(layer))
        shown = torch.linspace(0, len(layer) - 1, count).long()
        images = training_images(data, layer.row[shown.to(layer.row.device)].tolist())
        with inference(self.network):
            maps = self.network.prototypes(self.network.features(images.to(self.device)))
        own = maps[torch.arange(count), shown.to(maps.device)].cpu()  # (count, H, W)
        names = data.spec.classes
        titles = [f"{number}: {names[int(layer.owner[number])]}" for number in shown.tolist()]
        return {"prototypes": draw_prototypes(data.shown(images), activation_boxes(own, images.shape[-1]), titles)}
