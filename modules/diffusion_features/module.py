"""Diffusion Models Beat GANs on Image Classification (arXiv 2307.08702): probes of a diffusion model's blocks.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,  eps ~ N(0, I) anew for each image and pass
    f_{t,b} = output of block b of the U-Net on (x_t, t),   logits = head(pool_d(f_{t,b})),   cross-entropy

The U-Net was trained to generate, without labels, and is frozen: gradients reach the heads alone. With `tuned` it is
trained along, at its own learning rate: fine-tuning, and from an untrained U-Net the supervised baseline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modules.common import probe
from modules.common.diffusion import RowNoise, draw_normal
from modules.common.frozen import Frozen
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.diffusion_features.heads import HeadFactory
from modules.diffusion_features.sweep import Sweep

SOURCE = "source"


@dataclass(frozen=True)
class Cell:
    """A head and where it reads.

    Attributes:
        head: makes the head from the map's shape and the number of classes.
        block: number or name of the block; None takes the sweep's choice.
        step: time step, from 0; None takes the sweep's choice.
        pool: of the head; None leaves it to the head, 0 takes the sweep's choice.
        rate: learning rate of the head; None takes the optimiser's.
    """

    head: HeadFactory
    block: str | int | None = None
    step: int | None = None
    pool: int | None = None
    rate: float | None = None


class Probe(probe.Probe):
    """Heads on blocks of one source, trained side by side on noise that is drawn anew for each image and pass.

    Test noise follows from the seed and the image's row.

    Args:
        source: a stage whose `source()` is read.
        classes: number of classes.
        cells: name -> head and where it reads.
        sweep: has chosen what a cell leaves open.
        tuned: train the source as well; for a single head.
        source_rate: learning rate of a tuned source; None takes that of the head.
        headline: see probe.Probe.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: a cell that reads where nothing is, or several heads on a tuned source.
    """

    def __init__(
        self,
        source: Any,
        classes: int,
        cells: Mapping[str, Cell],
        sweep: Sweep | None = None,
        tuned: bool = False,
        source_rate: float | None = None,
        headline: str | None = None,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if not cells or (tuned and len(cells) > 1):
            raise ValueError(f"cells has {len(cells)} entries; expected one or more, and one with tuned=true")
        read = source.source()
        located = {name: locate(name, cell, read, sweep) for name, cell in cells.items()}
        heads = {}
        seed = int(torch.randint(2**31, ()))
        for name, cell in cells.items():
            block, _, options = located[name]
            with torch.random.fork_rng(devices=[]):  # a head starts alike whichever others are trained beside it
                torch.manual_seed(seed)
                heads[name] = cell.head(read.shapes[block], classes, **options)
        super().__init__(heads, classes, headline, optimizer, schedule)
        self.places = {name: (block, step) for name, (block, step, _) in located.items()}
        self.rates = {name: cell.rate for name, cell in cells.items()} | {SOURCE: source_rate}
        read = read.cut([block for block, _ in self.places.values()])
        self.read = read.requires_grad_(True) if tuned else nn.Identity()
        self.frozen = None if tuned else Frozen([read])
        self.row_noise = RowNoise(0)

    def trained(self) -> Iterable[Any]:
        trained = {name: list(head.parameters()) for name, head in self.heads.items()}
        trained[SOURCE] = list(self.read.parameters())
        rates = {name: {} if rate is None else {"lr": rate} for name, rate in self.rates.items()}
        return [{"params": parameters, **rates[name]} for name, parameters in trained.items() if parameters]

    def features(self, batch: Any) -> dict[str, Tensor]:
        x = batch.x
        eps = draw_normal(x) if self.training else self.row_noise(x)[1]
        return self.maps(x, eps)

    def maps(self, x: Tensor, eps: Tensor) -> dict[str, Tensor]:
        """Images and noise (B, C, S, S) -> each head's map (B, C', H, W); one pass for each time step."""
        maps: dict[str, Tensor] = {}
        for step in dict.fromkeys(step for _, step in self.places.values()):
            names = [name for name, place in self.places.items() if place[1] == step]
            t = torch.full((len(x),), step, device=x.device)
            outputs = self.blocks(x, t, eps, {self.places[name][0] for name in names})
            maps |= {name: outputs[self.places[name][0]] for name in names}
        return maps

    def blocks(self, x: Tensor, t: Tensor, eps: Tensor, blocks: set[str]) -> dict[str, Tensor]:
        """Outputs of these blocks; gradients flow through a source that is tuned."""
        if self.frozen is None:
            return self.read(x, t, eps, blocks)
        (source,) = self.frozen.on(x.device)
        with torch.inference_mode():
            outputs = source(x, t, eps, blocks)
        return probe.keep_for_a_loss(outputs)

    def classify(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Heads compute in single precision, whatever the source does."""
        with torch.autocast(self.device.type, enabled=False):
            return super().classify(features)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, C, S, S) -> each head's logits (B, classes)."""
        return self.classify(self.maps(x, torch.zeros_like(x)))

    def on_validation_epoch_start(self) -> None:
        self._seed_rows()

    def on_test_epoch_start(self) -> None:
        self._seed_rows()

    def _seed_rows(self) -> None:
        seed = int(torch.randint(2**31, ()))
        self.row_noise = RowNoise(seed, self.trainer.global_rank, self.trainer.world_size)


def locate(name: str, cell: Cell, source: Any, sweep: Sweep | None) -> tuple[str, int, dict[str, int]]:
    """A cell's block, time step and options of its head.

    Raises:
        ValueError: nothing chooses what the cell leaves open, or the source has no such block.
    """
    open_ = [key for key, value in (("block", cell.block), ("step", cell.step)) if value is None]
    open_ += ["pool"] if cell.pool == 0 else []
    if open_ and sweep is None:
        raise ValueError(f"cells.{name}.{open_[0]}: expected a value, or a sweep that chooses it (needs: sweep)")
    chosen = sweep.chosen if sweep is not None else None
    block = str(chosen.block if cell.block is None and chosen else cell.block)
    step = int(chosen.step if cell.step is None and chosen else cell.step or 0)
    if block not in source.shapes:
        raise ValueError(f"cells.{name}.block={block!r}: expected one of {', '.join(source.shapes)}")
    steps = len(source.noise) if source.noisy else 1
    if not 0 <= step < steps:
        raise ValueError(f"cells.{name}.step={step}: expected 0 to {steps - 1}")
    if cell.pool is None:
        return block, step, {}
    return block, step, {"pool": chosen.pool if cell.pool == 0 and chosen else cell.pool}
