"""`dry=true`: a recipe's dry run as two tables: what its stages are and would take, and what they need."""

from __future__ import annotations

from omegaconf import DictConfig
from rich.table import Table
from rich.text import Text

from experiments.pages import console, needed
from experiments.pages.progress import Board
from experiments.running import needs, training
from experiments.running.dry import DryRun, Measured
from experiments.running.plan import plan

GPU = 1e14  # operations a second that a GPU of today does in bf16 when a training is written well, of 3e14 to 1e15
COLUMNS = (
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
)


def main(config: DictConfig) -> int:
    """Dry-run all stages of a configuration; prints two tables. Returns 0, or 1 if a stage failed."""
    this = plan(config, int(config.seed))
    training.quiet()
    training.check_plan(this)
    rehearsal = DryRun(this)
    with Board(f"{this.title} dry", len(rehearsal.stages)) as board:
        measured = rehearsal.run(board)

    console.out.print(_stages(f"{this.title}: dry run on generated data", measured), "")
    if left_out := [name for name in this.stages if name not in rehearsal.stages]:
        console.say(f"Not part of this recipe, which neither fits nor tests them: {', '.join(left_out)}.", "")
    console.out.print(needed.table("what a real run needs", needs.of_stages(rehearsal.stages.values())), "")
    _say_cost(sum(result.operations for result in measured.values() if isinstance(result, Measured)))
    return 1 if any(isinstance(result, str) for result in measured.values()) else 0


def _stages(title: str, measured: dict[str, Measured | str]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("stage", "") else "right", no_wrap=True)
    for name, result in measured.items():
        if isinstance(result, str):
            table.add_row(name, *[""] * 10, Text("failed", style="red"))
        else:
            table.add_row(name, *_cells(result), Text("passed", style="green"))
    return table


def _cells(stage: Measured) -> list[str]:
    images, steps = stage.here
    return [
        f"{stage.parameters:,}",
        f"{stage.frozen:,}" if stage.fit and stage.frozen else "",
        f"{stage.mult_adds:.3f}",
        "x".join(map(str, stage.shape)),
        str(stage.batch),
        f"{stage.steps:,}" if stage.steps else "",
        f"{images}x{steps}",
        f"{stage.seconds:.1f}" if stage.fit else "",
        f"{stage.hours:,.0f}" if stage.steps else "",
        f"{stage.memory / 2**30:.1f}",
    ]


def _say_cost(operations: float) -> None:
    hours = operations / GPU / 3600
    console.say(
        f"One seed's training: {operations:.1e} operations, about {hours:.{1 if hours < 10 else 0}f} GPU-hours at "
        f"{GPU / 1e12:.0f} TFLOP/s (three passes of the mult-adds for each image; what is frozen is not counted).",
        "Mult-adds are those of convolutions and matrix products; norms and activations are not counted.",
        "No result comes of a dry run: weights are random and images are generated.",
    )
