"""`make soak`: kills, corruptions, full disks, hostile input, and whether a result is lost by them.

Every trial disturbs a smoke run, runs it again, and compares metrics.json, metrics.csv and the weights with those of a
run that nothing disturbed.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from experiments.commands import cli
from experiments.common.errors import InputError, unknown
from experiments.config import compose
from experiments.pages import console

if TYPE_CHECKING:
    from tests.reliability.soak.bench import Trial

HELP = """\
Disturb smoke runs in every way a machine can, and check that nothing is lost: SIGKILL at random moments, damaged
files, hostile configurations, folders of data and words for a shell, altered records, two processes, papers or machines
at once, no room, no memory, no locks, a folder or a library that is replaced, a jumping clock, Ctrl-C.

  python -m tests.reliability.soak                 about 900 trials, a quarter of an hour on one core
  python -m tests.reliability.soak kills=200 seconds=3600
  python -m tests.reliability.soak seed=7          other moments, other bits

  kills=20           how often to SIGKILL
  seed=0             of the moments and of the damaged bits
  seconds=600        start nothing that takes long after this, but for the sweeps
  jobs=200           of each of two sweeps; 0: no sweep
  patience=180       seconds after which a process that has not ended counts as hanging; more on a busy machine
  paper=K            default: bagel, whose stages are short and which has a record
  only=input,files   some of the groups runs, files, input, records, shares, processes, machine, interrupts, sweeps

"""
PAPER = "bagel"
GROUPS = ("runs", "files", "input", "records", "shares", "processes", "machine", "interrupts", "sweeps")
ROWS = {  # kind of trial -> (what was tried, what each should do)
    "command": ("runs by the command itself", "same results"),
    "kill": ("SIGKILL at a random moment", "resumed, same results"),
    "rank": ("one of two processes of a stage killed", "tried again, same results"),
    "litter": ("folders after those kills", "nothing left behind"),
    "corruption": ("damaged files", "noticed, same results"),
    "refusal": ("hostile input", "refused or escaped"),
    "folder": ("hostile or damaged files in folders of data", "refused in one line"),
    "shell": ("what a shell acts on, in make and in jobs", "refused, or text"),
    "shares": ("batches of two processes, of every paper", "those of one process"),
    "record": ("damaged records of results", "named, untouched"),
    "writers": ("two writers of a record at once", "both entries there"),
    "sweep": ("short jobs of two sweeps over the same runs", "each done once"),
    "concurrent": ("two processes, papers or machines on one run", "same results"),
    "disk": ("full or read-only disk", "one line, then same results"),
    "clock": ("jumps of the clock", "same results"),
    "foreground": ("Ctrl-C to all processes, imports included", "ends, then same results"),
    "killed writer": ("SIGKILL while a record is written", "whole, nothing left behind"),
    "room": ("no room for a file or in shared memory", "one line, then same results"),
    "memory": ("no memory, a worker killed", "one line or a kill, then same results"),
    "pulled away": ("locks, folders, libraries", "one line or same results"),
    "interrupt": ("Ctrl-C, once or twice; SIGTERM", "ends, then same results"),
}
HARMLESS = ("refusal", "litter", "folder", "shell", "shares")  # kinds in which no result can be lost


def schedule(given: Mapping[str, int], paper: str, groups: Sequence[str], folder: Path) -> Iterator[Trial]:
    """The trials of these groups, one after the other as they are asked for."""
    from tests.reliability.soak.bench import PATIENCE
    from tests.reliability.soak.schedule import Schedule

    PATIENCE.seconds = given["patience"]
    numbers = {name: given[name] for name in ("kills", "seed", "seconds", "jobs")}
    return Schedule(paper, **numbers, folder=folder).trials(groups)


def main(argv: list[str]) -> int:
    given = {"kills": 20, "seed": 0, "seconds": 600, "jobs": 200, "patience": 180}
    paper = PAPER
    groups: list[str] = list(GROUPS)
    for argument in argv:
        key, _, value = argument.partition("=")
        if key == "paper":
            compose.paper_file(value)
            paper = value
        elif key == "only":
            groups = value.split(",")
            if wrong := [name for name in groups if name not in GROUPS]:
                raise unknown("group", wrong[0], GROUPS)
        elif key in given and value.isdigit():
            given[key] = int(value)
        else:
            raise InputError(
                f"{argument!r}: expected kills=, seed=, seconds=, jobs=, patience=N, paper=K or only=GROUP"
            )
    trials: list[Trial] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as folder,
        Progress(*columns, console=console.out, transient=True, disable=not console.out.is_terminal) as bar,
    ):
        task = bar.add_task("undisturbed run")
        for trial in schedule(given, paper, groups, Path(folder)):
            trials.append(trial)
            bar.update(task, description=escape(f"{len(trials)} trials; {ROWS[trial.kind][0]}: {trial.name}"[:100]))
            if trial.problem:
                console.out.print(
                    f"failed  {ROWS[trial.kind][0]}, {trial.name}: {trial.problem}", markup=False, soft_wrap=True
                )
    bad = [trial for trial in trials if trial.problem]
    console.out.print(table(trials, f"{paper}, seed {given['seed']}"))
    again = " ".join(f"{key}={value}" for key, value in given.items())
    again += "" if groups == list(GROUPS) else f" only={','.join(groups)}"
    ending = f"; again: python -m tests.reliability.soak paper={paper} {again}" if bad else ""
    console.out.print(f"{len(trials)} trials; {', '.join(counted(bad))}{ending}", soft_wrap=True)
    return 1 if bad else 0


def counted(bad: Sequence[Trial]) -> list[str]:
    """How many failed in which way; each trial counts once."""
    ways = Counter(way_of(trial) for trial in bad)
    return [f"{way} {ways[way]}" for way in ("lost", "executed", "tracebacks", "other failures")]


def way_of(trial: Trial) -> str:
    """In which way a trial failed."""
    if "was executed" in trial.problem:
        return "executed"
    if trial.problem.startswith("traceback"):
        return "tracebacks"
    return "other failures" if trial.kind in HARMLESS else "lost"


def table(trials: Sequence[Trial], title: str) -> Table:
    made = Table(title=title, title_justify="left")
    for column, side in (("disturbance", "left"), ("tried", "right"), ("what should happen", "left"), ("did", "right")):
        made.add_column(column, justify=side)  # type: ignore[arg-type]
    for kind, (what, wanted) in ROWS.items():
        tried = [trial for trial in trials if trial.kind == kind]
        good = sum(1 for trial in tried if not trial.problem)
        style = "" if good == len(tried) else "red"
        made.add_row(what, str(len(tried)), wanted, str(good), style=style)
    return made


if __name__ == "__main__":
    sys.exit(cli.main(main, HELP, exits="0 nothing lost and nothing failed, 1 something was, 2 wrong input"))
