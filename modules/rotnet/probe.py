"""Probes of a RotNet's blocks, frozen or trained along (RotNet, arXiv 1803.07728)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from modules.common import probe
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.rotnet.heads import HeadFactory
from modules.rotnet.module import RotNet
from modules.rotnet.networks import initialise


class Probe(probe.Probe):
    """Classifiers on the blocks of a trunk, one for each block named, trained side by side.

    The trunk is frozen in evaluation mode and outside this module. With `tuned` it is trained too, as part of it.

    Args:
        source: the RotNet whose trunk is probed; blocks above the last one named are not run.
        classes: number of classes.
        heads: "block<number>" -> maker of the head on that block's output.
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
        depths = {block: blocks[block] for block in heads}
        trunk = source.trunk.first(1 + max(depths.values()))
        made = {}
        seeds = torch.randint(2**31, (len(source.trunk),)).tolist()
        with torch.random.fork_rng(devices=[]):  # a head starts alike whichever other blocks are probed beside it
            for block, depth in depths.items():
                torch.manual_seed(seeds[depth])
                made[block] = heads[block](trunk.shapes[depth], classes)
                initialise(made[block], init, dense=True)
        super().__init__(made, classes, None, optimizer, schedule)
        self.depths = depths
        self.heads.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trunk = trunk.requires_grad_(True) if tuned else nn.Identity()
        self.frozen = None if tuned else Frozen([trunk])

    def trained(self) -> Iterable[nn.Parameter]:
        return self.parameters()

    def features(self, batch: Any) -> dict[str, Tensor]:
        """The outputs of the blocks probed, (B, C, H, W) each."""
        return self.outputs(batch.x)

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, S, S) -> block: its output (B, C', H, W)."""
        if self.frozen is None:
            outputs = self.trunk(x)
            return {block: outputs[depth] for block, depth in self.depths.items()}

        (trunk,) = self.frozen.on(x.device)
        with torch.inference_mode():
            outputs = trunk(x)
        return probe.keep_for_a_loss({block: outputs[depth] for block, depth in self.depths.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, S, S) -> block: logits (B, classes) of its head."""
        return self.classify(self.outputs(x))
