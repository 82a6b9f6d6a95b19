"""`make compare`: did a change of the code move numbers? The same runs from two states of the code.

The other state is checked out beside this one. Both write into one folder of runs, so that a stage whose identity is
the same in both is trained once and equal by construction.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from experiments.commands import cli
from experiments.common import files
from experiments.common.errors import InputError, RunError
from experiments.common.paths import ROOT
from experiments.config import compose
from experiments.evidence.sequences import mean_of, t_interval
from experiments.pages import console

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
DESCRIBE = """
import json, sys
from experiments.config import compose
from experiments.running.plan import plan
made = plan(compose.compose(compose.request(sys.argv[2:]).overrides), int(sys.argv[1]))
print(json.dumps({name: str(stage.directory) for name, stage in made.stages.items()}))
"""


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
    given = {key: value for key, _, value in (word.partition("=") for word in argv) if key in OWN}
    rest = [word for word in argv if word.partition("=")[0] not in OWN]
    if not given.get("base"):
        raise InputError("base=REV is missing: the state to compare with, e.g. base=main")
    seeds = given.get("seeds", "0,1").strip("[]").split(",")
    if not all(seed.isdigit() for seed in seeds):
        raise InputError(f"seeds={given['seeds']}: expected whole numbers, as 0,1,2")
    if not any(word.startswith("scale=") for word in rest):
        rest.append("scale=smoke")

    moved: list[Moved] = []
    with checked_out(given["base"]) as base:
        for key in _papers(given.get("paper"), base):
            differing = list(compare(key, [int(seed) for seed in seeds], rest, base))
            moved += differing
            console.out.print(f"{key}: " + (f"{len(differing)} metrics differ" if differing else "the same"))
    if moved:
        console.out.print(table(moved, given["base"]))
    return 1 if moved else 0


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A folder with another state of the code, for as long as it is needed. Raises InputError if git has none such."""
    with tempfile.TemporaryDirectory(prefix="base-") as folder:
        base = Path(folder) / "base"
        _git("worktree", "add", "--detach", str(base), revision)
        try:
            yield base
        finally:
            _git("worktree", "remove", "--force", str(base))


def _git(*words: str) -> None:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"git {' '.join(words[:2])}: {done.stderr.strip().splitlines()[-1]}")


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
    olds, news = (
        [{name: done.metrics for name, done in run_in(tree, seed, words).items()} for seed in seeds]
        for tree in (base, ROOT)
    )
    for stage in dict.fromkeys(name for run in (*olds, *news) for name in run):
        names = dict.fromkeys(name for run in (*olds, *news) for name in run.get(stage, {}))
        for name in names:
            before, now = ([run.get(stage, {}).get(name, math.nan) for run in runs] for runs in (olds, news))
            if not all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(before, now, strict=True)):
                yield Moved(key, stage, name, before, now)


@dataclass(frozen=True)
class Done:
    """What a stage with the code of another folder left: its fingerprint there and its metrics."""

    fingerprint: str
    metrics: Mapping[str, float]


def run_in(tree: Path, seed: int, words: Sequence[str]) -> dict[str, Done]:
    """Every stage of one run with the code of a folder. Raises RunError if it fails, or is too old to tell."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    command = [sys.executable, "-m", "experiments.run", *words, f"seed={seed}"]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    where = "here" if tree == ROOT else "in the base"
    if done.returncode:
        told = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise RunError(f"{' '.join(command[2:])} ended with {done.returncode} {where}: {''.join(told)}")
    asked = [sys.executable, "-c", DESCRIBE, str(seed), *words]
    described = subprocess.run(asked, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if described.returncode:
        raise RunError(f"the code {where} does not say where its stages are: it is too old to compare with")
    folders = json.loads(described.stdout.splitlines()[-1])
    return {
        name: Done(folder.rpartition("-")[2], files.read_json(Path(folder) / "metrics.json") or {})
        for name, folder in folders.items()
    }


def table(moved: Sequence[Moved], base: str) -> Table:
    made = Table(title=f"what differs from {base}, means over seeds", title_justify="left")
    for column in ("paper", "stage", "metric"):
        made.add_column(column)
    for column in ("base", "here", "difference"):
        made.add_column(column, justify="right")
    for item in moved:
        means = [console.number(sum(values) / len(values)) for values in (item.base, item.here)]
        made.add_row(item.paper, item.stage, item.metric, *means, str(item))
    return made


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, composes=True, exits=EXITS))
