"""What is disturbed: a run in a process of its own, and the comparison with the same run undisturbed.

The processes are forks of one that has imported everything: a fork starts in milliseconds and then goes through the
same engine and the same ending as the command does.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from experiments.commands import cli
from experiments.config import compose
from experiments.evidence import assembly
from experiments.identity.provenance import code_version, versions
from experiments.pages.progress import Board
from experiments.running import engine, training
from experiments.running.plan import Plan, plan

LINES = ("scale=smoke", "trainer=cpu", "checkpoint_seconds=0.02", "logger=csv")
RECORD = {
    "config.yaml",
    "metrics.json",
    "metrics.csv",
    "last.ckpt",
    "manifest.json",
    "hits.npz",
    "pictures",
    "artifacts",
}
FORK = multiprocessing.get_context("fork")
Hook = Callable[[dict[str, Any]], None]
Run = Callable[[Plan, Hook], Mapping[str, engine.Outcome]]
Snapshot = dict[str, dict[str, Any]]


@dataclass
class Patience:
    """After how many seconds a process that has not ended counts as hanging; more where others use the machine."""

    seconds: float = 180.0


PATIENCE = Patience()


@dataclass(frozen=True)
class Trial:
    """One disturbance; `problem` is empty if it ended as it should."""

    kind: str
    name: str
    problem: str = ""


def nothing(event: dict[str, Any] | None = None) -> None:
    """A disturbance that does not disturb."""


def make(lines: Sequence[str], seed: int = 0) -> Plan:
    return plan(compose.compose(compose.request(lines).overrides), seed)


def portion(whole: Plan, name: str) -> Plan:
    """The plan with only this stage and everything it needs."""
    wanted = {name}
    for other in reversed(whole.stages):
        if other in wanted:
            wanted |= set(whole.stages[other].predecessors)
    return replace(whole, stages={other: stage for other, stage in whole.stages.items() if other in wanted})


def root(this: Plan) -> Path:
    """The folder of a run."""
    return next(iter(this.stages.values())).directory.parent


def fork(work: Callable[[], int], log: Path, temporary: Path) -> Any:
    """Start a process that appends what it says to `log` and exits with what `work` returns."""
    temporary.mkdir(parents=True, exist_ok=True)

    def body() -> None:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, encoding="utf-8", closefd=False)
        tempfile.tempdir = str(temporary)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started us in the background
        code = work()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # there is nothing left to interrupt
        sys.exit(code)

    child = FORK.Process(target=body)
    child.start()
    return child


@dataclass
class Bench:
    """A plan, what it gives undisturbed, and fresh folders to disturb it in.

    Args:
        plan: the run; where it writes does not matter.
        folder: where everything is written.
    Raises:
        RuntimeError: the plan does not even run undisturbed.
    """

    plan: Plan
    folder: Path
    seconds: float = 0.0  # of the undisturbed run
    reference: Snapshot = field(default_factory=dict)
    count: int = 0

    def __post_init__(self) -> None:
        torch.set_num_threads(1)  # a fork inherits no threads; with one there are none to miss
        training.check_plan(self.plan)
        versions(), code_version()  # imported and looked up once, here, for all forks
        self.undisturbed, began = self.fresh(), time.monotonic()
        if problem := self.again(self.undisturbed):
            raise RuntimeError(f"the undisturbed run failed: {problem}")
        self.seconds, self.reference = time.monotonic() - began, snapshot(self.undisturbed)

    def fresh(self, origin: Plan | None = None) -> Plan:
        """The plan in a new folder, empty or with a copy of what is in that of another."""
        self.count += 1
        base = self.folder / str(self.count)
        base.mkdir(parents=True)
        if origin is not None:
            shutil.copytree(root(origin), base, dirs_exist_ok=True)
        return self.at(base)

    def at(self, base: Path) -> Plan:
        stages = {n: replace(s, directory=base / s.directory.name) for n, s in self.plan.stages.items()}
        return replace(self.plan, stages=stages)

    def log(self, this: Plan) -> Path:
        return self.folder / f"{root(this).name}.log"

    def text(self, this: Plan) -> str:
        """What a run's processes have said so far."""
        return self.log(this).read_text(encoding="utf-8", errors="replace")

    def start(
        self, this: Plan, before: Callable[[], Any] = nothing, hook: Hook = nothing, run: Run = engine.run
    ) -> Any:
        """Run the plan in a fork, after `before`; `hook` gets what the engine reports. Ends as a command would."""
        ready = FORK.Event()

        def command(_: list[str]) -> int:
            before()
            ready.set()
            board = Board(this.title, len(this.stages))

            def told(event: dict[str, Any]) -> None:
                if event["event"] == "start":
                    print(f"trains: {event['stage']}")
                board(event)
                hook(event)

            outcomes = run(this, told)
            assembly.build([this], 1, [], {})  # what reads the records must be able to
            return engine.exit_code(outcomes)

        child = fork(lambda: cli.main(command, "", []), self.log(this), self.folder / "temporary")
        ready.wait(PATIENCE.seconds)
        return child

    def ended(self, child: Any, this: Plan, *codes: int, ignoring: tuple[str, str] | None = None) -> str:
        """Wait; what was wrong with the way it ended (other than with `codes`) or, if it succeeded, its results."""
        child.join(PATIENCE.seconds)
        if child.exitcode is None:
            child.kill()
            child.join()
            return "it hangs"
        lines = self.text(this).splitlines()
        said = next((line for line in reversed(lines) if line.startswith(("failed", "error:"))), "")
        for before, line in itertools.pairwise(["", *lines]):
            # The interpreter itself drops a Ctrl-C that arrives within a weak reference's callback, and says so.
            if line.startswith("Traceback") and not before.startswith("Exception ignored in"):
                return f"traceback: {lines[-1]}"
        if child.exitcode not in codes:
            return f"it ended with {child.exitcode}, not {' or '.join(map(str, codes))} {said}".strip()
        return different(self.reference, this, ignoring) if child.exitcode == 0 else ""

    def again(self, this: Plan, ignoring: tuple[str, str] | None = None) -> str:
        """Run it undisturbed; what is wrong with it now, but for the (stage, file) to ignore."""
        return self.ended(self.start(this), this, 0, ignoring=ignoring)


def snapshot(this: Plan, ignoring: tuple[str, str] | None = None) -> Snapshot:
    """What must not depend on any disturbance: stage -> file -> content, None where there is none."""
    contents: Snapshot = {name: {} for name in this.stages}
    for name, stage in this.stages.items():
        for file in ("metrics.json", "metrics.csv", "last.ckpt"):
            path = stage.directory / file
            if (name, file) == ignoring:
                continue
            if not path.exists():
                contents[name][file] = None
            elif file == "last.ckpt":
                contents[name][file] = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
            else:
                contents[name][file] = path.read_bytes()
    return contents


def different(reference: Snapshot, this: Plan, ignoring: tuple[str, str] | None = None) -> str:
    """Where a run's results differ from the reference; empty if nowhere."""
    try:
        present = snapshot(this, ignoring) if reference else {}
    except training.UNREADABLE as error:
        return f"a checkpoint cannot be read ({type(error).__name__})"
    for name, contents in present.items():
        for file, seen in contents.items():
            if not same(reference[name][file], seen):
                return f"{name}/{file} is {'missing' if seen is None else 'not the same'}"
    return ""


def same(a: Any, b: Any) -> bool:
    """Whether two contents are equal to the bit: files, or states of modules, which may hold more than tensors."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return type(a) is type(b) and bool(a == b)


def litter(bench: Bench, this: Plan) -> str:
    """Files that belong to no record: what a killed process left and nobody cleared away."""
    left = [f.name for s in this.stages.values() for f in s.directory.iterdir() if f.name not in RECORD]
    left += [f"{f.name} among temporary files" for f in (bench.folder / "temporary").glob("tmp*")]
    return f"{len(left)} files left behind, as {min(left)}" if left else ""
