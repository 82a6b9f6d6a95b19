"""Learning Support and Trivial Prototypes for Interpretable Image Classification (Wang et al., ICCV 2023).

arXiv 2301.04011. ProtoPNet's prototypes are trivial: far from the boundary between classes. A second branch learns
support prototypes near it, and the logits of both are added:

    trivial: CE + 0.8 L_clst + 0.08 L_sep + 1e-3 L_orth + L_dsc + 1e-4 |W of wrong classes|_1
    support: CE + 0.8 L_clst + 0.48 L_sep + 1e-3 L_orth + L_cls + 1e-4 |W of wrong classes|_1

    L_cls = -mean_{c != c'} min_{m, m'} p_cm . p_c'm',    L_dsc = mean_{c != c'} max_{m, m'} p_cm . p_c'm'

Batches alternate: an even one trains the trivial branch, an odd one the support branch, and both train the backbone.
After each step all prototypes are brought to length 1. The phases are stages: `warm` (add-on layers and prototypes),
`joint` (these and the backbone), `push` (every prototype becomes the most similar training patch of its class, each
branch for itself) and at last the last layers alone. Other arms have the same module with other branches.

What deviates, and where paper and released code differ:
- L_orth is the entrywise L1 norm summed over classes, as released; L_clst and L_sep are clamped at 0, as released.
- a branch whose turn it is not stands still; in the released code, momentum and weight decay went on moving it.
- the first step sees prototypes that are not of length 1, as released.
- Adam's moments begin anew with every stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.classifier import ClassificationModule, Classifier
from modules.common.inference import inference, training_images
from modules.common.metrics import Classification
from modules.common.module import OptimizerFactory
from modules.common.prototypes import NearestPatches, activation_boxes, draw_prototypes, wrong_class_l1
from modules.common.schedules import Schedule
from modules.st_protopnet.losses import BranchLoss, between_classes, cluster_and_separation
from modules.st_protopnet.networks import PARTS, BranchedNetwork, Plain

SHOWN = 12  # prototypes of a branch in its picture


class Start(Classifier):
    """The network whose backbone all arms start from, trained as a plain classifier, where there is no pretrained one.

    Its artifacts are its pictures, so that further stages need not draw them again; the stage's configuration says
    `trainer: {devices: 1, strategy: auto}`.
    """

    network: Plain

    def artifacts(self) -> dict[str, Any]:
        return self.trainer.datamodule.arrays()  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Trained:
    """Which parts of a network a phase trains, and how fast.

    Attributes:
        rates: learning rate of each part that is trained: backbone, add_on, prototypes, last.
        weight_decay: of backbone and add-on layers, biases too.
    Raises:
        ValueError: an unknown part.
    """

    rates: Mapping[str, float]
    weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        for part in self.rates:
            if part not in PARTS:
                raise ValueError(f"rates: {part!r}: expected one of {', '.join(PARTS)}")

    def groups(self, network: BranchedNetwork) -> list[dict[str, Any]]:
        """Parameter groups, one for each part that is trained."""
        decay = {"backbone": self.weight_decay, "add_on": self.weight_decay}
        return [
            {
                "params": [p for part in network.part(name) for p in part.parameters()],
                "lr": rate,
                "weight_decay": decay.get(name, 0.0),
            }
            for name, rate in self.rates.items()
        ]


class Phase(ClassificationModule):
    """Training of some parts of a network with branches, batch by batch in turns; the others keep their weights.

    Test metrics are those of the sum of logits; `<branch>_top1` of a branch alone; and `<branch>_closest` and
    `<branch>_farthest`, the largest and the smallest dot product of two classes' prototypes in the mean over pairs.

    Args:
        classes: number of classes.
        parts: which are trained, and how fast.
        losses: of each branch.
        network: what to begin with; not needed with `start`.
        start: a stage whose network to go on with.
        backbone: a stage whose backbone the network begins with.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: neither or both of network and start, or losses of other branches.
    """

    network: BranchedNetwork
    partial_backward = True  # a batch reaches one branch

    def __init__(
        self,
        classes: int,
        parts: Trained,
        losses: Mapping[str, BranchLoss] | None = None,
        network: BranchedNetwork | None = None,
        start: Phase | None = None,
        backbone: Start | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if (network is None) == (start is None):
            raise ValueError("expected either network, or start from needs: {start: <stage>}")
        super().__init__(network if start is None else start.network, classes, optimizer, schedule)  # type: ignore[arg-type]
        if losses is None:
            losses = start.losses if start is not None else {}
        self.losses: dict[str, BranchLoss] = {**losses}
        if set(self.losses) != set(self.network.branches):
            raise ValueError(f"losses: {sorted(self.losses)}: expected those of {sorted(self.network.branches)}")
        if backbone is not None:
            self.network.backbone = backbone.network.backbone
        self.parts = parts
        for name in PARTS:
            for layers in self.network.part(name):
                layers.requires_grad_(name in parts.rates)
        self.branch_metrics = nn.ModuleDict({name: Classification(classes, ["top1"]) for name in self.network.branches})

    def trained(self) -> list[dict[str, Any]]:
        return self.parts.groups(self.network)

    def turn(self, batch_idx: int) -> str:
        """Whose batch it is."""
        names = list(self.network.branches)
        return names[batch_idx % len(names)]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        name = self.turn(batch_idx)
        branch = self.network.branch(name)
        z = branch.add_on(self.network.backbone(batch.x))  # (B, D, H, W)

        maps = branch.similarities(z)  # (B, P, H, W)

        logits = branch.classify(maps)  # (B, classes)
        cluster, separation = cluster_and_separation(branch.cosines(maps, z), branch.prototypes.owner, batch.y)
        terms = {
            "ce": F.cross_entropy(logits, batch.y),
            "cluster": cluster,
            "separation": separation,
            **self.losses[name].of_prototypes(branch.vectors()),
            "l1": wrong_class_l1(branch.last.weight, branch.prototypes.owner),
        }
        loss = self.losses[name].total(terms)

        self.track(len(batch.y), loss=loss, top1=100 * (logits.argmax(-1) == batch.y).float().mean(), **terms)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Directions alone count."""
        if "prototypes" in self.parts.rates:
            for name in self.network.branches:
                self.network.branch(name).prototypes.normalise()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        each = self.network.logits(batch.x)
        self.test_metrics.update(torch.stack([*each.values()]).sum(0), batch.y)
        for name, logits in each.items():
            measure = self.branch_metrics[name]
            assert isinstance(measure, Classification)
            measure.update(logits, batch.y)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        for name, measure in self.branch_metrics.items():
            assert isinstance(measure, Classification)
            smallest, largest = between_classes(self.network.branch(name).vectors().detach().float())
            self.log_dict(
                {
                    f"test/{name}_top1": measure.compute()["top1"],
                    f"test/{name}_closest": largest,
                    f"test/{name}_farthest": smallest,
                }
            )
            measure.reset()


class Push(Phase):
    """Every prototype becomes the most similar patch of its class, in one pass over the training images as they are.

    Batches have the column `row`, and the stage's configuration says
    `trainer: {max_epochs: 1, devices: 1, strategy: auto}` and no augmentation.
    """

    def __init__(self, classes: int, start: Phase) -> None:
        super().__init__(classes, Trained({}), start=start)
        self.automatic_optimization = False
        self.searches = nn.ModuleDict(
            {name: NearestPatches(self.network.branch(name).prototypes) for name in self.network.branches}
        )

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        with inference(self.network):
            shared = self.network.backbone(batch.x)
            for name, search in self.searches.items():
                branch = self.network.branch(name)
                assert isinstance(search, NearestPatches)
                search.update(branch.prototypes, branch.add_on(shared), batch.y, batch.row)

    def on_train_epoch_end(self) -> None:
        for name, search in self.searches.items():
            assert isinstance(search, NearestPatches)
            search.push(self.network.branch(name).prototypes)
        super().on_train_epoch_end()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Some prototypes of each branch, each as a box in the training image it is a patch of."""
        return {f"{name} prototypes": self.picture(name, data) for name in self.network.branches}

    def picture(self, name: str, data: Any) -> Figure:
        branch = self.network.branch(name)
        layer = branch.prototypes
        shown = torch.linspace(0, len(layer) - 1, min(SHOWN, len(layer))).long()
        images = training_images(data, layer.row[shown.to(layer.row.device)].tolist())
        with inference(self.network):
            maps = layer(branch.add_on(self.network.backbone(images.to(self.device))))
        own = maps[torch.arange(len(shown)), shown.to(maps.device)].cpu()  # (n, H, W)
        titles = [data.spec.classes[int(layer.owner[number])] for number in shown.tolist()]
        return draw_prototypes(data.shown(images), activation_boxes(own, images.shape[-1]), titles)
