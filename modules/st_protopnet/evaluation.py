"""Stages that look at trained networks: where prototypes lie, and what heat maps show. Nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics import SumMetric

from modules.common.classifier import Classifier
from modules.common.frozen import Frozen
from modules.common.module import StageModule
from modules.st_protopnet.measures import deletion_auc, heat_in_mask, heat_maps, margin, share_inside
from modules.st_protopnet.module import Phase, Push
from modules.st_protopnet.networks import BranchedNetwork
from modules.st_protopnet.pictures import draw_margins

PARTS_OF_OBJECT = 4  # in a mask 1 to 4; more is the rest of the body


class Placed(StageModule):
    """How near to the boundary between classes the patches lie that prototypes were projected on.

    An independent network, the judge, gives each training image a margin, its largest minus its second largest logit;
    a prototype has that of the image it is a patch of. Test metrics, for each network and branch:

    - <network>_<branch>_margin: the mean over prototypes, in standard deviations of all training images' margins, 0
      being their mean.
    - <network>_<branch>_object: percent of a prototype's patch (the highest 5% of its map) inside the object's mask;
      _part: inside its parts.
    - judge_top1, object: the judge's accuracy on these images; percent of all pixels in the mask.

    A batch has x, y, row and mask; all training images are served, once. The stage's configuration says
    `trainer: {devices: 1, strategy: auto}`.

    Args:
        networks: pushed networks.
        names: of each.
        judge: trained apart from these.
    Raises:
        ValueError: another number of names.
    """

    def __init__(self, networks: Sequence[Push], names: Sequence[str], judge: Classifier) -> None:
        super().__init__()
        if len(names) != len(networks):
            raise ValueError(f"names: {[*names]}: expected {len(networks)}, one for each network")
        self.names = tuple(names)
        self.judged = Frozen([judge.network])
        self.frozen = Frozen([stage.network for stage in networks])
        self.margins: list[Tensor] = []
        self.rows: list[Tensor] = []
        self.correct: list[Tensor] = []
        self.covered: list[Tensor] = []
        self.shares: dict[str, Tensor] = {}  # (2, P): of object and parts
        self.placed: dict[str, Tensor] = {}  # (P,) margins, once they are known

    def networks(self) -> dict[str, BranchedNetwork]:
        return dict(zip(self.names, self.frozen.on(self.device), strict=True))

    def forward(self, x: Tensor) -> Tensor:
        """The judge's logits."""
        (network,) = self.judged.on(self.device)
        return network(x)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        logits = self(batch.x)
        self.margins.append(margin(logits.float()).cpu())
        self.rows.append(batch.row.cpu())
        self.correct.append((logits.argmax(1) == batch.y).float().cpu())
        self.covered.append((batch.mask > 0).float().mean((1, 2)).cpu())
        for name, network in self.networks().items():
            shared = network.backbone(batch.x)
            for branch in network.branches:
                self.look(f"{name}_{branch}", network.branch(branch), shared, batch)

    def look(self, key: str, branch: Any, shared: Tensor, batch: Any) -> None:
        """At the prototypes that are patches of this batch's images."""
        layer = branch.prototypes
        shares = self.shares.setdefault(key, torch.zeros(2, len(layer)))
        prototype, image = (layer.row[:, None] == batch.row).nonzero(as_tuple=True)
        if not len(prototype):
            return
        maps = layer(branch.add_on(shared))[image, prototype]  # (n, H, W)
        mask = batch.mask[image]
        for number, inside in enumerate((mask > 0, (mask > 0) & (mask <= PARTS_OF_OBJECT))):
            shares[number, prototype.cpu()] = share_inside(maps, inside).cpu()

    def on_test_epoch_end(self) -> None:
        margins, rows = torch.cat(self.margins), torch.cat(self.rows)
        by_row = torch.zeros(int(rows.max()) + 1).index_copy(0, rows, margins)
        scaled = (by_row - margins.mean()) / margins.std().clamp(min=1e-12)

        values = {"judge_top1": 100 * torch.cat(self.correct).mean(), "object": 100 * torch.cat(self.covered).mean()}
        for name, network in self.networks().items():
            for branch in network.branches:
                key = f"{name}_{branch}"
                row = network.branch(branch).prototypes.row.cpu()
                seen = (row >= 0) & (row < len(scaled))  # a dry run has pushed nothing
                self.placed[key] = scaled[row[seen]]
                values[f"{key}_margin"] = self.placed[key].sum() / max(1, int(seen.sum()))
                values[f"{key}_object"], values[f"{key}_part"] = 100 * self.shares[key].mean(1)
        self.log_dict({f"test/{name}": float(value) for name, value in values.items()})
        self.margins, self.rows, self.correct, self.covered, self.shares = [], [], [], [], {}

    def pictures(self, data: Any) -> dict[str, Figure]:
        return {"margins of the prototypes' images": draw_margins(self.placed)}


class Heat(StageModule):
    """Where the prototypes of an image's own class are found, beside the object's mask; and whether that place counts.

    Heat is the mean over branches of the mean own-class similarity map, stretched to [0, 1]. Test metrics, in the mean
    over images: ch, oirr, iou (see measures.heat_in_mask) and dauc, the area below the predicted class's probability
    (mean of the branches' softmaxes) while the hottest pixels are deleted. A batch has x, y and mask.

    Args:
        start: the network.
        steps: of deletion; 0 leaves it out.
    """

    def __init__(self, start: Phase, steps: int = 28) -> None:
        super().__init__()
        self.frozen = Frozen([start.network])
        self.steps = steps
        names = ["ch", "oirr", "iou", *(["dauc"] if steps else []), "n"]
        self.sums = nn.ModuleDict({name: SumMetric(nan_strategy="disable") for name in names})

    def network(self) -> BranchedNetwork:
        (network,) = self.frozen.on(self.device)
        return network

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) -> probabilities (B, classes)."""
        return torch.stack([logits.softmax(1) for logits in self.network().logits(x).values()]).mean(0)

    def heat(self, x: Tensor, y: Tensor) -> Tensor:
        """(B, S, S)."""
        network = self.network()
        shared = network.backbone(x)
        maps = []
        for name in network.branches:
            branch = network.branch(name)
            own = (branch.prototypes.owner == y[:, None])[:, :, None, None]  # (B, P, 1, 1)
            similarities = branch.similarities(branch.add_on(shared))
            maps.append((similarities * own).sum(1) / own.sum(1))
        return heat_maps(torch.stack(maps).mean(0), x.shape[-1])

    def test_step(self, batch: Any, batch_idx: int) -> None:
        heat = self.heat(batch.x, batch.y)
        values = heat_in_mask(heat, batch.mask > 0)
        if self.steps:
            values["dauc"] = deletion_auc(self, batch.x, heat, self.steps)
        values["n"] = torch.ones_like(values["ch"])
        for name, value in values.items():
            self.sums[name].update(value.sum())  # type: ignore[operator]

    def on_test_epoch_end(self) -> None:
        sums = {name: measure.compute() for name, measure in self.sums.items()}  # type: ignore[operator]
        self.log_dict({f"test/{name}": total / sums["n"] for name, total in sums.items() if name != "n"})
        self.log("test/n", sums["n"])
        for measure in self.sums.values():
            measure.reset()  # type: ignore[operator]
