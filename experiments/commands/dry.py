"""A recipe's dry run: every module at its own size, two steps on generated data, and what a real run would take.

A stage's `dry` (see Shortened) says what may be cut because it only repeats: images per step, steps, and arguments of
its module or data such as the number of samples to draw. Sizes of networks and inputs stay as published.
"""

from __future__ import annotations

import gc
import math
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode, flop_registry, register_flop_formula, sdpa_flop_count

from datamodules.common.base import DataModule, Fed
from experiments.common.errors import RunError, explain, typed
from experiments.config.instantiate import build
from experiments.config.recipes import merge
from experiments.pages import console
from experiments.running import process_memory, training
from experiments.running.plan import Plan, Stage, plan
from modules.common.module import StageModule

_cpu_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
if _cpu_attention not in flop_registry:  # torch counts the operations of attention on GPUs alone

    @register_flop_formula(_cpu_attention)
    def _attention_flops(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)


GPU = 1e14  # operations a second that a GPU of today does in bf16 when a training is written well, of 3e14 to 1e15


@dataclass(frozen=True)
class Shortened:
    """A stage's `dry` key: images per step, steps, and what is merged over its module and its data."""

    batch: int = 4  # a published batch of 512 would need the published hardware
    steps: int = 2
    module: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


def main(config: DictConfig) -> int:
    """Dry-run all stages of a configuration; prints two tables. Returns 0, or 1 if a stage failed."""
    this = plan(config, int(config.seed))
    training.quiet()
    training.check_plan(this)
    short = {name: typed(Shortened, stage.dry, f"stages.{name}.dry") for name, stage in this.stages.items()}
    table = Table(title=f"{this.title}: dry run on generated data", title_justify="left")
    for column in (
        "stage",
        "parameters",
        "frozen\nbeside it",
        "G mult-\nadds",
        "input",
        "batch",
        "steps",
        "here\nimages",
        "\ns/step",
        "\nhours",
        "\nGiB",
        "",
    ):
        table.add_column(column, justify="left" if column in ("stage", "") else "right", no_wrap=True)
    data: dict[str, DataModule] = {}
    built: dict[str, StageModule] = {}
    stages = _part_of_the_recipe(this)
    wanted = Counter(needed for stage in stages.values() for needed in stage.predecessors)
    failures = 0
    total = 0.0
    with console.Board(f"{this.title} dry", len(stages)) as board:
        for name, stage in stages.items():
            board({"event": "start", "seed": this.seed, "stage": name})
            event: dict[str, Any] = {"event": "stage", "seed": this.seed, "stage": name, "cached": False, "metrics": {}}
            try:
                row, operations = _stage(stage, short[name], built, data)
                total += operations
                table.add_row(name, *row, "[green]passed[/]")
                board({**event, "status": "done"})
            except Exception as error:  # noqa: BLE001 - a dry run reports every stage, whatever breaks in one
                failures += 1
                table.add_row(name, *[""] * 10, "[red]failed[/]")
                board({**event, "status": "failed", "reason": explain(error)[0]})
            wanted.subtract(stage.predecessors)
            for done in [n for n in built if not wanted[n]]:  # published sizes: all at once may not fit
                del built[done]
            gc.collect()  # trainers and modules refer to each other: without this the last stage stays in memory
            process_memory.give_back_freed_blocks()
    console.out.print(table, "")
    if left_out := [name for name in this.stages if name not in stages]:
        console.out.print(f"Not part of this recipe, which neither fits nor tests them: {', '.join(left_out)}.", "")
    console.out.print(_needed(data), "")
    hours = total / GPU / 3600
    console.out.print(
        f"One seed's training: {total:.1e} operations, about {hours:.{1 if hours < 10 else 0}f} GPU-hours at "
        f"{GPU / 1e12:.0f} TFLOP/s (three passes of the mult-adds for each image; what is frozen is not counted)."
    )
    console.out.print("Mult-adds are those of convolutions and matrix products; norms and activations are not counted.")
    console.out.print("No result comes of a dry run: weights are random and images are generated.")
    return 1 if failures else 0


def _part_of_the_recipe(this: Plan) -> dict[str, Stage]:
    """The stages that are fitted or tested and what these need, in the plan's order."""
    kept: set[str] = set()
    for name, stage in reversed(this.stages.items()):  # predecessors come before their users
        if stage.fit or stage.test or name in kept:
            kept |= {name, *stage.predecessors}
    return {name: stage for name, stage in this.stages.items() if name in kept}


def offline(config: Any) -> Any:
    """The same configuration with `pretrained: false` everywhere: a dry run fetches nothing."""
    if isinstance(config, dict):
        return {key: False if key == "pretrained" else offline(value) for key, value in config.items()}
    return [offline(item) for item in config] if isinstance(config, list) else config


def _stage(
    stage: Stage, short: Shortened, built: dict[str, StageModule], data: dict[str, DataModule]
) -> tuple[list[str], float]:
    """A stage's row of the table, and the operations that its training takes."""
    given = {k: built[v] if isinstance(v, str) else [built[n] for n in v] for k, v in stage.needs.items()}
    fed = {k: _fed(built, v) for k, v in stage.feeds.items()}
    real = build({**stage.data}, f"stages.{stage.name}.data", **fed)
    data[f"{real.root if hasattr(real, 'root') else ''}{stage.data['_target_']}"] = real
    shortened = merge(merge(stage.data, short.data), {"generated": True, "batch_size": short.batch})
    generated = build(shortened, f"stages.{stage.name}.data", **fed)
    config = offline(merge(stage.module, short.module))
    module = training.construct_from(Stage(**{**vars(stage), "module": config}), given)
    if stage.reference_batch:  # as a real run of so few images; at the rate of 1,600 two steps may end in NaN
        module.lr_scale = short.batch / stage.reference_batch
    built[stage.name] = module
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
        trainer.fit(module, datamodule=generated)
        loss = trainer.callback_metrics.get("train/loss")
        if loss is not None and not bool(torch.isfinite(loss)):
            raise RunError(f"{stage.name}: the loss is {float(loss)} after {short.steps} steps")
    seconds = (time.monotonic() - began) / short.steps
    if stage.test:
        trainer.test(module, datamodule=generated, verbose=False)
    spec, epochs = generated.spec, stage.trainer.get("max_epochs") or 0
    steps = math.ceil(spec.sizes["train"] / stage.data["batch_size"]) * epochs if stage.fit else 0
    own = {id(p) for p in module.parameters()}
    members = [m for value in given.values() for m in (value if isinstance(value, list) else [value])]
    frozen = sum(p.numel() for member in members for p in member.parameters() if id(p) not in own)
    mult_adds = multiply_adds(module, spec)
    hours = seconds / short.batch * stage.data["batch_size"] * steps / 3600
    row = [
        f"{sum(p.numel() for p in module.parameters()):,}",
        f"{frozen:,}" if stage.fit and frozen else "",
        f"{mult_adds:.3f}",
        "x".join(map(str, spec.shape)),
        str(stage.data["batch_size"]),
        f"{steps:,}" if steps else "",
        f"{short.batch}x{short.steps if stage.fit else 1}",
        f"{seconds:.1f}" if stage.fit else "",
        f"{hours:,.0f}" if steps else "",
        f"{process_memory.peak() / 2**30:.1f}",
    ]
    return row, 3 * 2 * 1e9 * mult_adds * spec.sizes["train"] * epochs if stage.fit else 0.0


def _fed(built: dict[str, StageModule], needed: str | list[str]) -> Any:
    """What feeds generated data: the modules alone, since no stage has made anything."""
    return Fed(built[needed], {}) if isinstance(needed, str) else [_fed(built, name) for name in needed]


def multiply_adds(module: StageModule, spec: Any) -> float:
    """Of one image through the module's forward, in 1e9; torch counts a multiply-add as two operations."""
    training_mode, trained = module.training, [p for p in module.parameters() if p.requires_grad]
    for p in trained:  # the counter follows the gradient of whatever a submodule is called with, and there is none
        p.requires_grad_(False)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module.eval()(*module.example(spec.shape))
    for p in trained:
        p.requires_grad_(True)
    module.train(training_mode)
    return counter.get_total_flops() / 2e9


def _needed(data: dict[str, DataModule]) -> Table:
    table = Table(title="data a real run needs", title_justify="left")
    for column in ("dataset", "sizes", "there?", "what to do"):
        table.add_column(column)
    for module in data.values():
        problem = module.available()
        module.generated = True  # the declared sizes, without reading
        sizes = " + ".join(f"{n:,} {split}" for split, n in module.spec.sizes.items() if n)
        table.add_row(module.spec.name, sizes, "[red]no[/]" if problem else "[green]yes[/]", problem or "nothing")
    return table
