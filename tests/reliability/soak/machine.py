"""What a machine runs out of, and what is pulled away under a run: memory, room, locks, clocks, folders, libraries."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datamodules.common.folders import ImageFolder
from experiments.commands import cli
from experiments.common.paths import ROOT
from experiments.evidence import assembly, results
from experiments.running import engine
from experiments.running.plan import Plan
from tests.reliability.soak import hostile
from tests.reliability.soak.bench import PATIENCE, Bench, Trial, fork, root
from tests.reliability.soak.hostile import in_a_fork

CLONE_NEWNS = 0x20000  # of unshare(2): mounts that this process and its children alone see
YEAR = 365 * 24 * 3600.0


def foreground(bench: Bench, lines: Sequence[str], rng: random.Random, count: int) -> Iterator[Trial]:
    """Ctrl-C as a terminal sends it, to the command and all its processes, from its first import to its end."""
    whole = 0.0
    for number in range(count + 1):
        runs = bench.folder / f"foreground-{number}"
        words = [sys.executable, "-m", "experiments.run", *lines, "seed=0", f"runs_dir={runs}"]
        began, moment = time.monotonic(), rng.uniform(0, whole)
        child = subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        try:
            said, _ = child.communicate(timeout=moment if number else PATIENCE.seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGINT)
            said, _ = child.communicate(timeout=PATIENCE.seconds)
        if not number:  # undisturbed: how long it takes
            whole = time.monotonic() - began
            continue
        problem = ""
        if "Traceback" in said:
            problem = f"traceback: {said.splitlines()[-1][:150]}"
        elif child.returncode not in (0, 130, -signal.SIGINT):
            problem = f"it ended with {child.returncode}: {said[-150:]}"
        base = runs / bench.plan.paper / bench.plan.scale / "seed=0"
        base.mkdir(parents=True, exist_ok=True)
        yield Trial("foreground", f"after {moment:.2f} s", problem or bench.again(bench.at(base)))


def killed_writers(paper: str, folder: Path, rng: random.Random, count: int) -> Iterator[Trial]:
    """SIGKILL while a record is written on and on: what stands there is whole, sealed, and can be written on."""
    entry = next(iter(results.entries(paper).values()))
    folder.mkdir(parents=True, exist_ok=True)

    def write(first: int, last: int | None) -> int:
        results.RESULTS = folder
        number = first
        while last is None or number < last:
            results.update(paper, f"mini+{number}", lambda stored: entry)
            number += 1
        return 0

    for turn in range(count):
        before = set(results.entries(paper, folder))
        child = fork(partial(write, len(before), None), folder / "log", folder / "temporary")
        child.join(rng.uniform(0.0, 0.3))
        child.kill()
        child.join()
        try:
            after = results.entries(paper, folder)
            results.check_seals(after, paper)
            problem = "" if before <= set(after) else "an entry is lost"
        except Exception as error:  # noqa: BLE001 - whatever it is, the record cannot be read
            problem = str(error)[:100]
        if not problem:
            problem = in_a_fork(partial(write, len(after), len(after) + 1), folder, 0)
        left = [path.name for path in folder.glob(".*.part")]
        yield Trial("killed writer", f"turn {turn}", problem or (f"{left[0]} is left behind" if left else ""))


def fails_then_runs(
    bench: Bench, kind: str, name: str, before: Callable[[], Any], told: str, *codes: int, plan: Plan | None = None
) -> Trial:
    """A run under something that should end it with one of these codes and these words; then the same without it."""
    this = plan if plan is not None else bench.fresh()
    child = bench.start(this, before=before)
    problem = bench.ended(child, this, 0, *codes)
    if not problem and child.exitcode > 0 and told not in bench.text(this):
        problem = f"it does not say {told!r}: {bench.text(this).strip().splitlines()[-1][:150]}"
    return Trial(kind, name, problem or bench.again(this))


def no_room_for_a_file(bench: Bench, size: int) -> Trial:
    """No file may grow beyond this many bytes (ulimit -f)."""
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
    return fails_then_runs(bench, "room", f"files of at most {size} bytes", limit, "the disk is full", 1)


def no_memory(bench: Bench, more: int) -> Trial:
    """A process may take only so many MiB more than it has (ulimit -v).

    Where the first thing that is refused is asked for by a library that does not look (compiled kernels of
    convolutions), the system ends the process: nobody is left to write a line, and nothing may be lost by it.
    """

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        size = pages * resource.getpagesize() + more * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

    return fails_then_runs(bench, "memory", f"{more} MiB more", limit, "not enough memory", 1, -signal.SIGSEGV)


def no_shared_memory(folder: Path) -> Trial | None:
    """/dev/shm has 64 KiB, which data loaders' processes hand their batches through; None where none can be mounted."""
    mounted = folder / "mounted"
    photos = hostile.unpacked(folder / "photos", hostile.photo())

    def load(_: list[str]) -> int:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNS) == 0:
            for words in (["--make-rprivate", "/"], ["-t", "tmpfs", "-o", "size=64k", "soak", "/dev/shm"]):
                done = subprocess.run(["mount", *words], check=False, capture_output=True)
            if done.returncode == 0:
                mounted.touch()
        data = ImageFolder(str(photos), batch_size=1, image_size=512, num_workers=1)
        data.setup()
        next(iter(data.train_dataloader()))
        return 0

    problem = in_a_fork(partial(cli.main, load, "", []), folder, 1)
    if not problem and "shared memory (/dev/shm) is full" not in (folder / "log").read_text(encoding="utf-8"):
        problem = "it does not say that shared memory is full"
    return Trial("room", "shared memory of 64 KiB", problem) if mounted.exists() else None


def no_locks(bench: Bench) -> Trial:
    """A file system that knows no locks."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    return fails_then_runs(
        bench, "pulled away", "locks", lambda: setattr(fcntl, "flock", refuse), "this file system has no locks", 2
    )


def no_folder(bench: Bench, number: int) -> Trial:
    """The whole runs folder is deleted when the n-th stage begins."""
    this, seen = bench.fresh(), iter(range(1000))

    def delete(event: dict[str, Any]) -> None:
        if event["event"] == "start" and next(seen) == number:
            shutil.rmtree(root(this))

    child = bench.start(this, hook=delete)
    problem = bench.ended(child, this, 0, 1, 2)
    return Trial("pulled away", f"the runs folder at stage {number}", problem or bench.again(this))


def killed_after_a_stage(bench: Bench) -> Plan:
    """A run whose first stage is done, and that was killed then."""
    this = bench.fresh()

    def die(event: dict[str, Any]) -> None:
        if event["event"] == "stage":
            os.kill(os.getpid(), signal.SIGKILL)

    bench.start(this, hook=die).join(PATIENCE.seconds)
    return this


def clock_back(bench: Bench) -> Trial:
    """The clock is set back by a year between two stages of a run."""
    this, real = killed_after_a_stage(bench), time.time

    class Earlier(engine.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return engine.datetime.fromtimestamp(real() - YEAR, tz)

    def set_back() -> None:
        time.time = lambda: real() - YEAR
        engine.datetime = Earlier  # type: ignore[misc]

    return fails_then_runs(bench, "clock", "set back by a year between two stages", set_back, "", plan=this)


def other_library(bench: Bench) -> Trial:
    """A library is replaced between two stages of a run: the record names both of its versions."""
    this, known = killed_after_a_stage(bench), engine.versions()
    newer = {**known, "torch": "99.0"}
    trial = fails_then_runs(
        bench,
        "pulled away",
        "torch replaced between two stages",
        lambda: setattr(engine, "versions", lambda: newer),
        "",
        plan=this,
    )
    said = assembly.build([this], 1, [], {}).provenance.versions["torch"]
    both = set(said.split(" and ")) == {"99.0", known["torch"]}
    return Trial(trial.kind, trial.name, trial.problem or ("" if both else f"the record says torch {said}"))


def read_only_results(paper: str, folder: Path) -> Trial:
    """A results folder that cannot be written to; for root, as somebody else."""
    folder.mkdir(parents=True)
    folder.chmod(0o555)
    entry = next(iter(results.entries(paper).values()))

    def write(_: list[str]) -> int:
        if os.geteuid() == 0:
            os.setuid(65534)
        results.RESULTS = folder
        results.update(paper, "mini", lambda stored: entry)
        return 0

    work = partial(cli.main, write, "", [])
    return Trial("disk", "read-only results", in_a_fork(work, folder.parent / "read-only", 2))


def two_papers(papers: Sequence[str], folder: Path) -> Trial:
    """Two papers at the same time over one folder of runs and one of remembered answers."""
    children = []
    for paper in papers:
        words = [f"paper={paper}", "scale=smoke", "trainer=cpu", "first=1", "jobs=1", f"runs_dir={folder}"]
        command = [sys.executable, "-m", "experiments.reproduce", *words]
        children.append(
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    problem = ""
    for paper, child in zip(papers, children, strict=True):
        told, _ = child.communicate(timeout=4 * PATIENCE.seconds)
        if child.returncode or "Traceback" in told:
            problem = problem or f"{paper} ended with {child.returncode}: {told[-150:]}"
    return Trial("concurrent", f"{' and '.join(papers)}", problem)
