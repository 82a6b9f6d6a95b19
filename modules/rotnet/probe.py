"""Probes of frozen blocks (RotNet, arXiv 1803.07728)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.rotnet.evaluation import AccuracyModule
from modules.rotnet.heads import HeadFactory
from modules.rotnet.module import RotNet
from modules.rotnet.networks import initialise


def frozen_outputs(trunk: Frozen, x: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
    """The outputs of the blocks wanted of a frozen trunk, by number from 0. No gradient flows."""
    (network,) = trunk.on(x.device)
    with torch.inference_mode():
        outputs = network(x)
    return {i: outputs[i].clone() for i in wanted}  # inference tensors cannot take part in a loss; copies can


class Probe(AccuracyModule):
    """Classifiers on the blocks of a trunk, one for each block named, trained side by side.

    The trunk is frozen in evaluation mode and outside this module, so that the heads are independent: their losses are
    added and none sees another's gradient. With `tuned` it is trained too, as part of this module.

    Args:
        source: the RotNet whose trunk is probed; blocks above the last one named are not run.
        classes: number of classes.
        heads: "block<number>" -> maker of the head on that block's output. Metrics carry the block's name where there
            are several heads.
        tuned: train the trunk as well. From an untrained one, this is the supervised network.
        init: of the heads, "he" (what the code's probes use) or "library".
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: a head is for a block that is not there, or several share a tuned trunk.
    """

    def __init__(
        self,
        source: RotNet,
        classes: int,
        heads: Mapping[str, HeadFactory],
        tuned: bool = False,
        init: str = "he",
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        blocks = {f"block{i + 1}": i for i in range(len(source.trunk))}
        if wrong := sorted(set(heads) - set(blocks)):
            raise ValueError(f"heads.{wrong[0]}: there is no such block; expected some of {', '.join(blocks)}")
        if not heads or (tuned and len(heads) > 1):
            raise ValueError(
                f"heads has {len(heads)} entries; expected one or more, and one on a trunk that is trained"
            )
        metric_names = {block: f"{block}_top1" if len(heads) > 1 else "top1" for block in heads}
        super().__init__(list(metric_names.values()), classes, 1, optimizer, schedule)
        self.metric_names = metric_names
        self.depths = {block: blocks[block] for block in heads}
        trunk = source.trunk.first(1 + max(self.depths.values()))
        self.heads = nn.ModuleDict()
        seeds = torch.randint(2**31, (len(source.trunk),)).tolist()
        with torch.random.fork_rng(devices=[]):  # a head starts alike whichever other blocks are probed beside it
            for block, depth in self.depths.items():
                torch.manual_seed(seeds[depth])
                self.heads[block] = heads[block](trunk.shapes[depth], classes)
                initialise(self.heads[block], init, dense=True)
        self.heads.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trunk = trunk.requires_grad_(True) if tuned else nn.Identity()
        self.frozen = None if tuned else Frozen([trunk])

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        predictions = self.predictions(batch)
        loss = torch.stack([F.cross_entropy(logits, y) for logits, y in predictions.values()]).sum()
        top1 = {name: 100 * (logits.argmax(-1) == y).float().mean() for name, (logits, y) in predictions.items()}
        self.track(len(batch[1]), loss=loss, **top1)
        return loss

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, S, S) -> block: logits (B, classes) of its head."""
        if self.frozen:
            outputs = frozen_outputs(self.frozen, x, self.depths.values())
        else:
            outputs = dict(enumerate(self.trunk(x)))
        return {block: head(outputs[self.depths[block]]) for block, head in self.heads.items()}

    def predictions(self, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        x, y = batch
        return {self.metric_names[block]: (logits, y) for block, logits in self(x).items()}
