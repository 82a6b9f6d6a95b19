"""`dry=true`: a recipe's dry run as two tables: what its stages are and would take, and what they need."""

from __future__ import annotations

import os

import torch
from omegaconf import DictConfig
from rich.table import Table
from rich.text import Text

from experiments.common.paths import ROOT
from experiments.evidence import naming, operations
from experiments.pages import console, needed
from experiments.pages.progress import Board
from experiments.running import measured, needs, pace, training
from experiments.running.dry import DryRun, Measured
from experiments.running.pace import Pace
from experiments.running.plan import Plan, plan

COLUMNS = (
    "stage",
    "parameters",
    "frozen\nbeside it",
    "G mult-\nadds",
    "input",
    "batch",
    "steps",
    "timed at\nbatch",
    "\ns/step",
    "\nhours",
    "GiB at\nbatch",
    "",
)


def main(config: DictConfig) -> int:
    """Dry-run all stages of a configuration; prints two tables. Returns 0, or 1 if a stage failed."""
    this = plan(config, int(config.seed))
    training.quiet()
    training.check_plan(this)
    torch.set_num_threads(int(config.threads))
    rehearsal = DryRun(this, float(config.dry_seconds), tests=True)
    with Board(f"{this.title} dry", len(rehearsal.stages)) as board:
        results = rehearsal.run(board)

    console.out.print(_stages(f"{this.title}: dry run on generated data", results), "")
    if left_out := [name for name in this.stages if name not in rehearsal.stages]:
        console.say(f"Not part of this recipe, which neither fits nor tests them: {', '.join(left_out)}.", "")
    console.out.print(needed.table("what a real run needs", needs.of_stages(rehearsal.stages.values())), "")
    stages = {name: result for name, result in results.items() if isinstance(result, Measured)}
    if stages:
        _say_hours(setting(this), pace.device_name(next(iter(this.stages.values())).trainer), stages)
    counted = {name: result.operations for name, result in stages.items() if result.operations}
    _say_cost(sum(counted.values()))
    if config.record is True and len(stages) == len(results):
        place = operations.write(this.paper, naming.title(this.scale, this.variant), counted)
        console.say(f"operations: {os.path.relpath(place, ROOT)}")
    return 1 if len(stages) < len(results) else 0


def setting(this: Plan) -> str:
    """How a measurement is kept: the paper, and its scale and variant."""
    return f"{this.paper} {this.scale}{f'+{this.variant}' if this.variant else ''}"


def _say_hours(name: str, device: str, stages: dict[str, Measured]) -> None:
    """The hours of one seed, where every training was timed kept for `make papers`, and what is not counted."""
    unknown = {key: stage.pace for key, stage in stages.items() if stage.steps and isinstance(stage.pace, str)}
    for key, why in unknown.items():
        console.say(f"{key}: hours are not known: {why}")
    hours = {key: stage.hours or 0.0 for key, stage in stages.items() if key not in unknown}
    if not any(hours.values()):
        return
    if not unknown:
        timed_at = {key: s.pace.batch if isinstance(s.pace, Pace) else s.batch for key, s in stages.items()}
        by_stage = {
            key: measured.Hours(hours[key], timed_at[key], stage.batch, stage.at_least) for key, stage in stages.items()
        }
        measured.write(name, device, by_stage)
    paces = [stage.pace for stage in stages.values() if isinstance(stage.pace, Pace)]
    stand_ins = [one for one in paces if not one.real]
    whose = "generated batches of real shapes" if stand_ins else "the datasets' own batches"
    tests = sum(stage.evaluation for stage in stages.values() if isinstance(stage.evaluation, float))
    untimed = [key for key, stage in stages.items() if isinstance(stage.evaluation, str)]
    left_out = [
        "what is done between epochs and after the last batch of a test",
        *(["decoding"] if any(one.beside for one in stand_ins) else []),
        *([f"tests of {', '.join(untimed)}"] if untimed else []),
    ]
    part = f" of {len(hours)} of {len(stages)} stages" if unknown else ""
    console.say(
        f"One seed{part}: {measured.amount(sum(hours.values()))} on {device}, of which tests and validations "
        f"{measured.amount(tests)}, by steps timed on {whose}; not counted: {', '.join(left_out)}.",
    )


def _stages(title: str, results: dict[str, Measured | str]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("stage", "") else "right", no_wrap=True)
    for name, result in results.items():
        if isinstance(result, str):
            table.add_row(name, *[""] * 10, Text("failed", style="red"))
        else:
            table.add_row(name, *_cells(result), Text("passed", style="green"))
    return table


def _cells(stage: Measured) -> list[str]:
    timed = stage.pace if isinstance(stage.pace, Pace) else None
    hours = stage.hours
    return [
        f"{stage.parameters:,}",
        f"{stage.frozen:,}" if stage.fit and stage.frozen else "",
        f"{stage.mult_adds:.3f}",
        "x".join(map(str, stage.shape)),
        str(stage.batch),
        f"{stage.steps:,}" if stage.steps else "",
        str(timed.batch) if timed else "",
        f"{timed.seconds:.3g}" if timed else "",
        f"{'>' if stage.at_least else ''}{measured.amount(hours)[:-2]}" if hours is not None else "",
        f"{timed.memory_published / 2**30:.1f}" if timed else "",
    ]


def _say_cost(total: float) -> None:
    console.say(
        f"One seed's training: at least {total:.1e} operations, {operations.in_hours(total)} (three passes of the "
        "mult-adds of what answers for each image; a stage's other networks and what is frozen are not counted).",
        "Mult-adds are those of convolutions and matrix products; norms and activations are not counted.",
        "No result comes of a dry run: weights are random and images are generated.",
    )
