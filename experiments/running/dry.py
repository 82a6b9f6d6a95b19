"""A stage built at its own size: two steps on generated data, and what a real run would take.

A stage's `dry` (experiments.config.schema.Shortened) says what may be cut because it only repeats: images per step,
steps, and arguments of its module or data such as the number of samples to draw. Sizes of networks and inputs stay as
published.
"""

from __future__ import annotations

import gc
import math
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula, sdpa_flop_count

from datamodules.common.base import DataModule, Fed
from experiments.common import failure
from experiments.common.errors import RunError
from experiments.config.instantiate import build
from experiments.config.recipes import merge
from experiments.config.schema import Shortened
from experiments.config.written import read
from experiments.running import process_memory, training
from experiments.running.manifest import Report
from experiments.running.plan import Plan, Stage, fill, names_in
from modules.common.module import StageModule

_cpu_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
if _cpu_attention not in flop_registry:  # torch counts the operations of attention on GPUs alone

    @register_flop_formula(_cpu_attention)
    def _attention_flops(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)


@dataclass(frozen=True)
class Measured:
    """What a stage is and what its steps took.

    Attributes:
        parameters, frozen: of its own, and of the stages that it is given.
        mult_adds: of one image through the forward pass, in 1e9.
        shape: of an image.
        batch, steps: of a real run; no step where nothing is fitted.
        here: images per step, and steps, of the dry run.
        seconds: a step of the dry run.
        memory: the largest of this process so far, in bytes.
        images: that a real training sees.
    """

    fit: bool
    parameters: int
    frozen: int
    mult_adds: float
    shape: tuple[int, ...]
    batch: int
    steps: int
    here: tuple[int, int]
    seconds: float
    memory: int
    images: int

    @property
    def hours(self) -> float:
        """Of a real training, as fast as the dry run's images."""
        return self.seconds / self.here[0] * self.batch * self.steps / 3600

    @property
    def operations(self) -> float:
        """Of a real training: three passes of the multiply-adds for each image, two operations each."""
        return 3 * 2 * 1e9 * self.mult_adds * self.images


class DryRun:
    """The stages of a plan, one after another, with what they need of each other.

    Attributes:
        stages: those that the recipe fits or tests and what these need.
    """

    def __init__(self, plan: Plan) -> None:
        self.short = {name: read(Shortened, item.dry, f"stages.{name}.dry") for name, item in plan.stages.items()}
        self.stages = part_of_the_recipe(plan)
        self._built: dict[str, StageModule] = {}

    def run(self, report: Report) -> dict[str, Measured | str]:
        """What was measured of each stage, or why it failed; events go to `report` as of a real run."""
        measured: dict[str, Measured | str] = {}
        users = Counter(needed for stage in self.stages.values() for needed in stage.predecessors)
        for name, stage in self.stages.items():
            event = {"seed": stage.seed, "stage": name}
            report({"event": "start", **event})
            trace = stage.directory / f"dry-{failure.NAME}"
            try:
                measured[name] = self._measure(stage, self.short[name])
                trace.unlink(missing_ok=True)
                report({"event": "stage", **event, "status": "done", "cached": False, "metrics": {}})
            except Exception as error:  # noqa: BLE001 - every stage is reported, whatever breaks in one
                measured[name] = reason = failure.explain(error, trace)[0]
                report({"event": "stage", **event, "status": "failed", "reason": reason})
            users.subtract(stage.predecessors)
            for unused in [built for built in self._built if not users[built]]:
                del self._built[unused]  # published sizes: all at once may not fit
            gc.collect()  # trainers and modules refer to each other: without this the last stage stays in memory
            process_memory.give_back_freed_blocks()
        return measured

    def _measure(self, stage: Stage, short: Shortened) -> Measured:
        partners = fill(stage.needs, self._built.__getitem__)
        generated = self._generated(stage, short)
        module = training.construct_from(replace(stage, module=offline(merge(stage.module, short.module))), partners)
        if stage.reference_batch:  # as a real run of so few images; at the rate of 1,600 two steps may end in NaN
            module.lr_scale = short.batch / stage.reference_batch
        self._built[stage.name] = module

        seconds = _step(stage, short, module, generated)
        spec = generated.spec
        batch = stage.data["batch_size"]
        epochs = (stage.trainer.get("max_epochs") or 0) if stage.fit else 0
        own = {id(p) for p in module.parameters()}
        members = [self._built[name] for name in names_in(stage.needs)]
        return Measured(
            fit=stage.fit,
            parameters=sum(p.numel() for p in module.parameters()),
            frozen=sum(p.numel() for member in members for p in member.parameters() if id(p) not in own),
            mult_adds=multiply_adds(module, spec),
            shape=spec.shape,
            batch=batch,
            steps=math.ceil(spec.sizes["train"] / batch) * epochs,
            here=(short.batch, short.steps if stage.fit else 1),
            seconds=seconds,
            memory=process_memory.peak(),
            images=spec.sizes["train"] * epochs,
        )

    def _generated(self, stage: Stage, short: Shortened) -> DataModule:
        """The stage's data as a dry run has it."""
        where = f"stages.{stage.name}.data"
        feeds = fill(stage.feeds, self._fed)
        build({**stage.data}, where, **feeds)  # as a real run does, which may refuse it
        shortened = merge(merge(stage.data, short.data), {"generated": True, "batch_size": short.batch})
        generated: DataModule = build(shortened, where, **feeds)
        return generated

    def _fed(self, name: str) -> Fed:
        """What feeds generated data: the module alone, since no stage has made anything."""
        return Fed(self._built[name], {})


def _step(stage: Stage, short: Shortened, module: StageModule, data: DataModule) -> float:
    """Train and test a stage for a few steps; returns the seconds of a training step."""
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        limit_train_batches=short.steps,
        limit_val_batches=1,
        limit_test_batches=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
    began = time.monotonic()
    if stage.fit:
        trainer.fit(module, datamodule=data)
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None and not bool(torch.isfinite(loss)):
            raise RunError(f"{stage.name}: the loss is {float(loss)} after {short.steps} steps")
    seconds = (time.monotonic() - began) / short.steps
    if stage.test:
        trainer.test(module, datamodule=data, verbose=False)
    return seconds


def part_of_the_recipe(plan: Plan) -> dict[str, Stage]:
    """The stages that are fitted or tested and what these need, in the plan's order."""
    needed: set[str] = set()
    for name, stage in reversed(plan.stages.items()):  # predecessors come before their users
        if stage.fit or stage.test or name in needed:
            needed |= {name, *stage.predecessors}
    return {name: stage for name, stage in plan.stages.items() if name in needed}


def offline(config: Any) -> Any:
    """The same configuration with `pretrained: false` everywhere: a dry run fetches nothing."""
    if isinstance(config, dict):
        return {key: False if key == "pretrained" else offline(value) for key, value in config.items()}
    return [offline(item) for item in config] if isinstance(config, list) else config


def multiply_adds(module: StageModule, spec: Any) -> float:
    """Of one image through the module's forward, in 1e9; torch counts a multiply-add as two operations."""
    training_mode = module.training
    trained = [p for p in module.parameters() if p.requires_grad]
    for p in trained:  # the counter follows the gradient of whatever a submodule is called with, and there is none
        p.requires_grad_(False)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module.eval()(*module.example(spec.shape))
    for p in trained:
        p.requires_grad_(True)
    module.train(training_mode)
    return counter.get_total_flops() / 2e9
