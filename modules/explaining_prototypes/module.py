"""This Looks Like That, Because ... Explaining Prototypes for Interpretable Image Recognition (Nauta et al. 2021).

arXiv 2011.02863; the network it explains is ProtoPNet (Chen et al. 2019, arXiv 1806.10574). A prototype is a patch of a
training image, but its picture does not say in which respect another patch is similar. So every image is modified in
one characteristic i (contrast, saturation, hue, shape, texture), and the loss of similarity at the position l* where
the prototype j is found in the ORIGINAL image k is the characteristic's importance:

    phi_local(i, k, j)  = g_j(k, l*) - g_j(k_i, l*)
    phi_global(i, j)    = sum_k g_j(k) phi_local(i, k, j) / sum_k g_j(k)        over all images, of all classes

ProtoPNet is trained in phases, each of them a stage: `warm` (add-on layers and prototypes), `joint` (these and the
backbone), `push` (every prototype becomes the nearest training patch of its class), `last` (the last layer alone). The
loss is the same in all:

    L = CE + 0.8 L_clst + 0.08 L_sep + 1e-4 |W of wrong classes|_1

What deviates, and where paper and released code differ:
- the released code saves modified images as JPEG, at quality 75 or 95 by characteristic; here they stay in memory, so
  that no modification means no score (`jpeg_roundtrip` of the data is a switch).
- Adam's moments begin anew with every stage; in the released code those of the joint phase live on through pushes.
- a phase runs in training mode throughout, frozen layers' batch norms included, as released.
- the untrained network that planted characteristics are compared with has batch statistics of the training images and
  the very patches of the trained network as its prototypes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from modules.common.classifier import ClassificationModule
from modules.common.inference import inference, training_images
from modules.common.module import OptimizerFactory
from modules.common.prototypes import NearestPatches, activation_boxes, draw_prototypes, wrong_class_l1
from modules.common.schedules import Schedule
from modules.explaining_prototypes.losses import LossWeights, cluster_and_separation
from modules.explaining_prototypes.networks import PARTS, ProtoPNet


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


class Statistics(Phase):
    """Nothing is trained: batch statistics are averaged over one pass of the training images, every batch alike.

    The stage's configuration says `trainer: {max_epochs: 1, devices: 1, strategy: auto}`.
    """

    def __init__(self, classes: int, network: ProtoPNet) -> None:
        super().__init__(classes, {}, network)
        self.automatic_optimization = False
        for layer in self.modules():
            if isinstance(layer, _BatchNorm):
                layer.momentum = None

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        with torch.no_grad():
            self.network.features(batch.x)


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
