"""`make compare`: did a change of the code move numbers? The same runs from two states of the code.

The other state is checked out beside this one. Both write into one folder of runs, so that a stage whose identity is
the same in both is trained once and equal by construction.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from experiments.commands import cli, states
from experiments.common.errors import InputError
from experiments.common.paths import ROOT
from experiments.config import compose
from experiments.evidence.sequences import mean_of, t_interval
from experiments.pages import console, numbers

HELP = """\
Run papers from this code and from another state of it, and show which numbers differ.

  python -m experiments.commands.compare base=main                       every paper's smoke scale
  python -m experiments.commands.compare base=HEAD~3 paper=meal_v2,zpe
  python -m experiments.commands.compare base=v0.1 paper=meal_v2 scale=mini seeds=0,1,2

  base=REV           what git calls it: a branch, a tag, a commit
  paper=K,...        default: all that both have
  seeds=0,1          pilot seeds; with three or more, the mean difference has a 95% interval
  anything else      goes to both, as python -m experiments.run takes it

"""
EXITS = "0 no number differs, 1 some do, 2 wrong input"
OWN = ("base", "paper", "seeds")


@dataclass(frozen=True)
class Moved:
    """A metric that is not the same in both: its values by seed, in the base and here."""

    paper: str
    stage: str
    metric: str
    base: list[float]
    here: list[float]

    def __str__(self) -> str:
        """The mean difference; with three seeds or more and a spread also its 95% interval."""
        differences = [now - before for before, now in zip(self.base, self.here, strict=True)]
        if not all(map(math.isfinite, differences)):
            return "not finite, or not there"
        told = f"{mean_of(differences):+.3g}"
        if len(differences) < 3 or len(set(differences)) == 1:
            return told
        estimate = t_interval(differences)
        return f"{told} [{estimate.low:+.3g}, {estimate.high:+.3g}]"


def main(argv: list[str]) -> int:
    own, rest = cli.take(argv, OWN)
    if not own.get("base"):
        raise InputError("base=REV is missing: the state to compare with, e.g. base=main")
    seeds = own.get("seeds", "0,1").strip("[]").split(",")
    if not all(seed.isdigit() for seed in seeds):
        raise InputError(f"seeds={own['seeds']}: expected whole numbers, as 0,1,2")
    if not any(word.startswith("scale=") for word in rest):
        rest.append("scale=smoke")

    moved: list[Moved] = []
    with states.checked_out(own["base"]) as base:
        for key in _papers(own.get("paper"), base):
            differing = list(compare(key, [int(seed) for seed in seeds], rest, base))
            moved += differing
            console.out.print(f"{key}: " + (f"{len(differing)} metrics differ" if differing else "the same"))
    if moved:
        console.out.print(table(moved, own["base"]))
    return 1 if moved else 0


def _papers(wanted: str | None, base: Path) -> list[str]:
    """Those asked for, or all that both states have."""
    if wanted is None:
        return [key for key in compose.papers() if (base / "conf" / "paper" / f"{key}.yaml").exists()]
    keys = wanted.split(",")
    for key in keys:
        compose.paper_file(key)
        if not (base / "conf" / "paper" / f"{key}.yaml").exists():
            raise InputError(f"paper={key}: the base does not have it")
    return keys


def compare(key: str, seeds: Sequence[int], rest: Sequence[str], base: Path) -> Iterator[Moved]:
    """Run a paper from both states; what differs, by stage and metric. A metric that one lacks counts as NaN there."""
    words = [f"paper={key}", *rest]
    if not any(word.startswith("runs_dir=") for word in words):
        words.append(f"runs_dir={ROOT / 'runs'}")
    olds = [_metrics(base, seed, words) for seed in seeds]
    news = [_metrics(ROOT, seed, words) for seed in seeds]

    for stage, metric in states.names(*olds, *news):
        before = [run.get(stage, {}).get(metric, math.nan) for run in olds]
        now = [run.get(stage, {}).get(metric, math.nan) for run in news]
        if not all(map(states.equal, before, now)):
            yield Moved(key, stage, metric, before, now)


def _metrics(tree: Path, seed: int, words: Sequence[str]) -> states.Metrics:
    return {name: stage.metrics for name, stage in states.run_in(tree, seed, words).items()}


def table(moved: Sequence[Moved], base: str) -> Table:
    """Means over seeds of what differs, side by side."""
    shown = Table(title=f"what differs from {base}, means over seeds", title_justify="left")
    for column in ("paper", "stage", "metric"):
        shown.add_column(column)
    for column in ("base", "here", "difference"):
        shown.add_column(column, justify="right")
    for item in moved:
        before, now = (numbers.number(sum(values) / len(values)) for values in (item.base, item.here))
        shown.add_row(item.paper, item.stage, item.metric, before, now, str(item))
    return shown


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, composes=True, exits=EXITS))
