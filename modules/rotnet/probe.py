"""Probes of frozen blocks, and their comparison (RotNet, arXiv 1803.07728)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.rotnet.heads import HeadFactory
from modules.rotnet.module import RotNet, Scored
from modules.rotnet.networks import Trunk, initialise

PICTURED = 2000  # test images in a picture of accuracies


class FrozenTrunk(Frozen):
    """A trunk that is used and never trained, with the outputs of its blocks."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__([trunk])

    def outputs(self, x: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
        """The outputs of the blocks wanted, by number from 0. No gradient flows."""
        with torch.inference_mode():
            outputs = self.networks[0].to(x.device)(x)
        return {i: outputs[i].clone() for i in wanted}  # inference tensors cannot take part in a loss; copies can


class Probe(Scored):
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
        head_seed: fixes the heads' initial weights, so that arms with the same seed start alike.
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
        head_seed: int = 0,
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
        named = {block: f"{block}_top1" if len(heads) > 1 else "top1" for block in heads}
        super().__init__(list(named.values()), classes, 1, optimizer, schedule)
        self.named, self.depths = named, {block: blocks[block] for block in heads}
        trunk = source.trunk.first(1 + max(self.depths.values()))
        self.heads = nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):
            for block, depth in self.depths.items():
                torch.manual_seed(1000 * head_seed + depth)
                self.heads[block] = heads[block](trunk.shapes[depth], classes)
                initialise(self.heads[block], init, dense=True)
        self.heads.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trunk = trunk.requires_grad_(True) if tuned else nn.Identity()
        self.frozen = None if tuned else FrozenTrunk(trunk)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, S, S) -> block: logits (B, classes) of its head."""
        outputs = self.frozen.outputs(x, self.depths.values()) if self.frozen else dict(enumerate(self.trunk(x)))
        return {block: head(outputs[self.depths[block]]) for block, head in self.heads.items()}

    def predictions(self, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        return {self.named[block]: (logits, batch[1]) for block, logits in self(batch[0]).items()}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        found = self.predictions(batch)
        loss = torch.stack([F.cross_entropy(logits, y) for logits, y in found.values()]).sum()
        right = {name: 100 * (logits.argmax(-1) == y).float().mean() for name, (logits, y) in found.items()}
        self.track(len(batch[1]), loss=loss, **right)
        return loss


class Comparison(Scored):
    """Two trained probes on the same test images: how many points `first` is ahead, for each head they share.

    Logs `test/<block>_gap`, or `test/gap` where each has one head. Not trained.

    Args:
        first, second: the probes.
        titles: what to call them in the picture.
        classes: number of classes.
    Raises:
        ValueError: the probes share no head.
    """

    def __init__(self, first: Probe, second: Probe, classes: int, titles: Sequence[str] = ("first", "second")) -> None:
        shared = [name for name in first.named.values() if name in second.named.values()]
        if not shared:
            raise ValueError(f"heads: {', '.join(first.named)} and {', '.join(second.named)} have none in common")
        super().__init__([f"{which}_{name}" for which in ("first", "second") for name in shared], classes)
        self.first, self.second, self.shared, self.titles = first, second, shared, list(titles)

    def forward(self, x: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self.first(x), self.second(x)

    def predictions(self, batch: tuple[Tensor, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        both = {"first": self.first.predictions(batch), "second": self.second.predictions(batch)}
        return {f"{which}_{name}": found[name] for which, found in both.items() for name in self.shared}

    def on_test_epoch_end(self) -> None:
        found = self.measured("test")
        gaps = {name.replace("top1", "gap"): found[f"first_{name}"] - found[f"second_{name}"] for name in self.shared}
        self.log_dict({f"test/{name}": value for name, value in {**gaps, "n": found["n"]}.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Accuracy of both per block, as bars."""
        if len(self.shared) < 2:
            return {}
        for batch in islice(data.test_dataloader(), 1 + PICTURED // data.batch_size):
            self.measure((batch[0].to(self.device), batch[1].to(self.device)), "test")
        found = self.measured("test")
        figure = Figure(figsize=(9, 3), layout="constrained")
        ax = figure.subplots()
        for offset, which, title in ((-0.2, "first", self.titles[0]), (0.2, "second", self.titles[1])):
            places = [i + offset for i in range(len(self.shared))]
            values = [float(found[f"{which}_{name}"]) for name in self.shared]
            ax.bar_label(ax.bar(places, values, 0.38, label=title), fmt="%.1f", fontsize=8)
        ax.set_xticks(range(len(self.shared)), [name.removesuffix("_top1") for name in self.shared])
        ax.set(ylim=(0, 112), ylabel="top-1, %", title=f"probe of each block, {int(found['n']):,} test images")
        ax.legend(loc="upper right", ncols=2, fontsize=8)
        return {"accuracy per block": figure}
