"""`make tune`: one grid for all arms that the main claim compares, on validation data of pilot seeds."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from omegaconf import DictConfig
from rich.table import Table
from rich.text import Text

from experiments.commands import cli
from experiments.commands.schedulers import Schedulers
from experiments.common.errors import InputError
from experiments.common.overlay import home
from experiments.common.tables import read_rows
from experiments.config import compose, vary
from experiments.config.trials import Grid
from experiments.evidence import naming, tuning
from experiments.evidence.tuning import Tuned
from experiments.identity.provenance import code_version
from experiments.pages import console
from experiments.pages.numbers import number
from experiments.pages.progress import Board
from experiments.running import preconditions
from experiments.running.manifest import finished
from experiments.running.plan import Plan, only, plan

HELP = """\
Try the grid that a recipe's `tune` names: the same values for every arm that the main claim
compares, judged by a validation metric on pilot seeds, which are never recorded. Stages that the
arms share are trained once.

It prints the table, says whether a best value lies at the edge of the grid, and writes
results/tuning/K/<setting>.json, which a registration repeats. It leaves the recipe as it is:
writing the best values into it is up to you.

  python -m experiments.commands.tune paper=meal_v2
  python -m experiments.commands.tune paper=meal_v2 variant=clean jobs=1
"""


def main(argv: list[str]) -> int:
    request = compose.request(argv)
    config = compose.compose(request.overrides)
    resolved = compose.resolve(config, 0)
    grid = tuning.read(resolved)
    where = f"conf/recipe/{request.paper}/{request.scale}.yaml"
    if grid is None:
        raise InputError(f"{where}: says nothing of tuning; expected tune: {{arms, keys, values, by, seeds}}")
    if grid.none:
        raise InputError(f"{where}: tune: none: {grid.none}")

    plans = [_plan(config, grid, request.paper, value, seed) for value in grid.values for seed in grid.seeds]
    preconditions.check(plans)
    with Schedulers() as schedulers:
        scheduler = schedulers.of(config, sum(len(p.stages) for p in plans))
        names = [stage.name for p in plans for stage in p.stages.values()]
        with Board(f"{request.paper} tune", len(names), {}).plan(names) as board:
            for number in range(len(grid.values)):
                scheduler.run(plans[number * len(grid.seeds) : (number + 1) * len(grid.seeds)], board)

    table = _gather(grid, plans)
    setting = naming.title(request.scale, request.variant, data=request.data)
    console.out.print(_show(grid, table, f"{request.paper}/{setting}"))
    for line in _notes(table):
        console.out.print(line, markup=False, soft_wrap=True)
    path = tuning.write(request.paper, setting, table)
    console.out.print(f"tuning: {path.relative_to(home()) if path.is_relative_to(home()) else path}")
    return 0


def _plan(config: DictConfig, grid: Grid, paper: str, value: Any, seed: int) -> Plan:
    """The arms and what they need, with one value of the grid in its places."""
    return only(plan(vary.put(config, grid.keys, value, compose.groups(paper), "tune"), seed), grid.arms)


def _gather(grid: Grid, plans: Sequence[Plan]) -> Tuned:
    """What was found, as results/tuning holds it. Raises InputError if no arm logs the metric."""
    seeds = len(grid.seeds)
    by_value = [plans[number : number + seeds] for number in range(0, len(plans), seeds)]
    scores = {arm: [[_score(p, arm, grid.by) for p in same] for same in by_value] for arm in grid.arms}
    if all(score is None for values in scores.values() for row in values for score in row):
        raise InputError(f"tune.by={grid.by}: no arm logged it; give the arms' data a val_size, or name what they log")
    return {
        "arms": list(grid.arms),
        "keys": list(grid.keys),
        "values": list(grid.values),
        "seeds": list(grid.seeds),
        "by": grid.by,
        "lower_is_better": grid.lower_is_better,
        "scores": scores,
        "chosen": tuning.choose(grid, scores),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": code_version()["commit"],
    }


def _score(plan_: Plan, arm: str, metric: str) -> float | None:
    """A validation metric in the last epoch that has it; None where the arm did not finish."""
    stage = plan_.stages[arm]
    if finished(stage) is None:
        return None
    values = [row[metric] for row in read_rows(stage.directory / "metrics.csv") if metric in row]
    return values[-1] if values else None


def _show(grid: Grid, table: Tuned, title: str) -> Table:
    seeds = ", ".join(map(str, grid.seeds))
    values = [str(value) for value in grid.values]
    shown = console.table(f"{title}: {grid.by}, mean of pilot seeds {seeds}", ["arm", *values], right=values)
    for arm, chosen in table["chosen"].items():
        cells = []
        for value, mean in zip(grid.values, chosen["means"], strict=True):
            text = "failed" if mean is None else number(mean)
            cells.append(Text(text, "bold" if value == chosen["value"] else ""))
        shown.add_row(arm, *cells)
    return shown


def _notes(table: Tuned) -> list[str]:
    """What a reader must know of the best values."""
    notes = []
    for arm, chosen in table["chosen"].items():
        if chosen["value"] is None:
            notes.append(f"{arm}: no value trained to the end")
        elif chosen["edge"]:
            notes.append(f"{arm}: the best value, {chosen['value']}, lies at the edge of the grid: widen it")
    return notes


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, overlays=True, composes=True))
