"""`make soak`: kills, corruptions, full disks, hostile input, and whether a result is lost by them.

Every trial disturbs a smoke run, runs it again, and compares metrics.json, metrics.csv and the weights with those of a
run that nothing disturbed.
"""

from __future__ import annotations

import itertools
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from experiments.commands import cli
from experiments.common.errors import InputError
from experiments.config import compose
from experiments.pages import console

if TYPE_CHECKING:
    from tests.reliability.soak.bench import Bench, Trial

HELP = """\
Disturb smoke runs in every way a machine can, and check that nothing is lost: SIGKILL at random moments, damaged
files, hostile configurations and archives, altered records, two processes or papers at once, no room, no memory, no
locks, a folder or a library that is replaced, a jumping clock, Ctrl-C.

  python -m tests.reliability.soak                 a few minutes on one core
  python -m tests.reliability.soak kills=200 seconds=3600
  python -m tests.reliability.soak seed=7          other moments, other bits

  kills=20           how often to SIGKILL
  seed=0             of the moments and of the damaged bits
  seconds=600        start nothing new after this long, but for the sweeps
  jobs=200           of each of two sweeps; 0: no sweep
  paper=K            default: bagel, whose stages are short and which has a record

"""
PAPER = "bagel"
SECOND = "ntk_optimality"  # beside it
ROWS = {  # kind of trial -> (what was tried, what each should do)
    "command": ("runs by the command itself", "same results"),
    "kill": ("SIGKILL at a random moment", "resumed, same results"),
    "rank": ("one of two processes of a stage killed", "tried again, same results"),
    "litter": ("folders after those kills", "nothing left behind"),
    "corruption": ("damaged files", "noticed, same results"),
    "refusal": ("hostile input", "refused or escaped"),
    "record": ("damaged records of results", "named, untouched"),
    "writers": ("two writers of a record at once", "both entries there"),
    "sweep": ("short jobs of two sweeps over the same runs", "each done once"),
    "concurrent": ("two processes on one run", "each stage trained once"),
    "disk": ("full or read-only disk", "one line, then same results"),
    "clock": ("jumps of the clock", "same results"),
    "foreground": ("Ctrl-C to all processes, imports included", "ends, then same results"),
    "killed writer": ("SIGKILL while a record is written", "whole, nothing left behind"),
    "room": ("no room for a file or in shared memory", "one line, then same results"),
    "memory": ("no memory", "one line, then same results"),
    "pulled away": ("locks, folders, libraries", "one line or same results"),
    "interrupt": ("Ctrl-C, once or twice; SIGTERM", "ends, then same results"),
}


def schedule(paper: str, kills: int, seed: int, seconds: float, jobs: int, folder: Path) -> Iterator[Trial]:
    """Everything, in turn; each kind of disturbance gets its share of the time."""
    from experiments.evidence import results
    from tests.reliability.soak import bench, disturb, hostile, machine, records

    began = time.monotonic()
    moments, bits, rest = (random.Random(f"{seed} {what}") for what in ("moments", "bits", "rest"))

    def late(share: float) -> bool:
        return time.monotonic() - began > share * seconds

    lines = [f"paper={paper}", *bench.LINES]
    whole = bench.make([*lines, f"runs_dir={folder / 'planned'}"])
    full = bench.Bench(whole, folder / "whole")
    yield disturb.by_command(full, lines)
    yield from disturb.kills(full, kills, moments, began + 0.5 * seconds)
    victim, dependent = disturb.small(whole)
    part = bench.Bench(bench.portion(whole, dependent or victim), folder / "part")
    for state in disturb.states(part, victim, dependent):
        for file, how in disturb.damages(bits, flips=6):
            if not late(0.7):
                yield disturb.corruption(part, state, victim, file, how)
    for name, problem in hostile.refusals(part.undisturbed, lines, victim, folder / "hostile"):
        yield bench.Trial("refusal", name, problem)
    if (results.RESULTS / f"{paper}.json").exists():
        yield from records.damaged(paper, folder / "records")
        yield from records.altered(paper, folder / "altered")
        yield from records.raced(paper, folder / "raced")
        yield from machine.killed_writers(paper, folder / "killed", rest, 20)
        yield machine.read_only_results(paper, folder / "unwritable" / "results")
    if Path("/proc/self/cmdline").exists():
        pair = bench.make([*lines, "trainer=ddp_cpu", f"stages.{victim}.trainer.max_epochs=40"])
        yield from disturb.ranks(bench.Bench(bench.portion(pair, victim), folder / "ranks"), victim, rest, 3)
    yield disturb.concurrent(full)
    if not late(0.75):
        yield machine.two_papers([paper, SECOND], folder / "two")
    yield from pulled_away(part, folder, late)
    if not late(0.8):
        for pressed in machine.foreground(full, lines, rest, 20):
            yield pressed
            if late(0.9):
                break
    yield disturb.read_only(part)
    size = sum(f.stat().st_size for f in bench.root(part.undisturbed).rglob("*") if f.is_file())
    for share in range(1, 9):
        if not late(0.8) and (trial := disturb.full_disk(part, size * share // 8)) is not None:
            yield trial
    for number in itertools.count():
        if late(0.9) or (trial := disturb.full_at(part, number)) is None:
            break
        yield trial
    for _ in range(2):
        yield disturb.clock_jump(part, rest.randrange(1000))
    for times in (1, 2):
        yield disturb.interrupt(part, times)
    yield disturb.interrupt(part, 1, number=signal.SIGTERM)
    for times in (1, 2) * 4:
        if not late(1.0):
            yield disturb.interrupt(full, times, rest.uniform(0, full.seconds))
            yield disturb.interrupt(full, 1, rest.uniform(0, full.seconds), signal.SIGTERM)
    if jobs:
        yield from disturb.sweeps(part, lines, jobs)


def pulled_away(part: Bench, folder: Path, late: Callable[[float], bool]) -> Iterator[Trial]:
    """Room, memory, locks, folders, clocks and libraries."""
    from tests.reliability.soak import bench, machine

    sizes = [f.stat().st_size for f in bench.root(part.undisturbed).rglob("*") if f.is_file()]
    for share in (0.01, 0.3, 0.9):
        if not late(0.8):
            yield machine.no_room_for_a_file(part, max(3_000, int(share * max(sizes))))
    for more in (1, 16, 64):
        if not late(0.8):
            yield machine.no_memory(part, more)
    if (trial := machine.no_shared_memory(folder / "shared")) is not None:
        yield trial
    yield machine.no_locks(part)
    yield from (machine.no_folder(part, number) for number in range(len(part.plan.stages)))
    yield machine.clock_back(part)
    yield machine.other_library(part)


def main(argv: list[str]) -> int:
    given = {"kills": 20, "seed": 0, "seconds": 600, "jobs": 200}
    paper = PAPER
    for argument in argv:
        key, _, value = argument.partition("=")
        if key == "paper":
            compose.paper_file(value)
            paper = value
        elif key in given and value.isdigit():
            given[key] = int(value)
        else:
            raise InputError(f"{argument!r}: expected kills=N, seed=N, seconds=N, jobs=N or paper=K")
    trials: list[Trial] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as folder,
        Progress(*columns, console=console.out, transient=True, disable=not console.out.is_terminal) as bar,
    ):
        task = bar.add_task("undisturbed run")
        for trial in schedule(paper, **given, folder=Path(folder)):
            trials.append(trial)
            bar.update(task, description=escape(f"{len(trials)} trials; {ROWS[trial.kind][0]}: {trial.name}"[:100]))
            if trial.problem:
                console.out.print(
                    f"failed  {ROWS[trial.kind][0]}, {trial.name}: {trial.problem}", markup=False, soft_wrap=True
                )
    bad = [trial for trial in trials if trial.problem]
    lost = sum(1 for trial in bad if trial.kind not in ("refusal", "litter"))
    console.out.print(table(trials, f"{paper}, seed {given['seed']}"))
    again = " ".join(f"{key}={value}" for key, value in given.items())
    ending = f"; again: python -m tests.reliability.soak paper={paper} {again}" if bad else ""
    console.out.print(f"lost results: {lost}, other failures: {len(bad) - lost}{ending}", soft_wrap=True)
    return 1 if bad else 0


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
