"""The disturbances: each runs a plan under it, runs it again, and says whether the results are what they should be."""

from __future__ import annotations

import errno
import io
import itertools
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.common.paths import ROOT
from experiments.config import compose
from experiments.running.plan import Plan, plan
from tests.reliability.soak.bench import PATIENCE, Bench, Trial, different, litter, portion, root


def saving(this: Plan, seconds: float) -> Plan:
    """The same run (no fingerprint holds this) with other times between checkpoints."""
    return replace(this, config={**this.config, "checkpoint_seconds": seconds})


def on_replace(act: Callable[[int, Path], None]) -> None:
    """Call `act` with a running number and the target before every os.replace of this process: where files appear."""
    real, numbers = os.replace, itertools.count()

    def replaced(source: Any, target: Any) -> None:
        act(next(numbers), Path(target))
        real(source, target)

    os.replace = replaced  # type: ignore[assignment]


def by_command(bench: Bench, lines: Sequence[str]) -> Trial:
    """The command a user types, in a process that shares nothing with this one."""
    runs = bench.folder / "command"
    words = [sys.executable, "-m", "experiments.run", *lines, "seed=0", f"runs_dir={runs}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE.seconds, check=False)
    problem = f"it ended with {done.returncode}: {done.stderr[-300:]}" if done.returncode else ""
    base = runs / bench.plan.paper / bench.plan.scale / "seed=0"
    return Trial("command", "undisturbed", problem or different(bench.reference, bench.at(base)))


def kills(bench: Bench, count: int, rng: random.Random, until: float) -> Iterator[Trial]:
    """SIGKILL at moments drawn from the undisturbed run's duration, again and again until the run is through."""
    done = 0
    while done < count and time.monotonic() < until:
        this, problem = bench.fresh(), ""
        moments: list[float] = []
        while done + len(moments) < count and time.monotonic() < until:
            child, moment = bench.start(this), rng.uniform(0, bench.seconds)
            child.join(moment)
            if child.exitcode is not None:
                problem = bench.ended(child, this, 0)
                break
            child.kill()
            child.join()
            moments.append(moment)
        problem = problem or bench.again(this)
        done += len(moments)
        name = "at " + ", ".join(f"{m:.2f}" for m in moments) + " s"
        yield from [Trial("kill", name, problem)] * len(moments)
        yield Trial("litter", name, litter(bench, this))
        shutil.rmtree(bench.folder / "temporary")


class Payload:
    """Unpickled by anything that trusts a file, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def damage(path: Path, how: str, owned: Path) -> None:
    """Damage a file: cut, empty, garbage, another JSON value, a bit (`flip 0.37`: how far in), a pickle that acts."""
    content = path.read_bytes() if path.exists() else b"0"  # not written yet: as if something else had
    kind, _, where = how.partition(" ")
    if kind == "flip":
        index = _in_largest(path) if where == "tensor" else int(float(where) * len(content))
        content = content[:index] + bytes([content[index] ^ 16]) + content[index + 1 :]
    elif kind == "digit":  # still valid, no longer what was measured
        index = next(i for i in reversed(range(len(content))) if content[i : i + 1].isdigit())
        content = content[:index] + (b"7" if content[index : index + 1] != b"7" else b"3") + content[index + 1 :]
    elif kind == "zipped":
        buffer = io.BytesIO()
        torch.save({"state_dict": Payload(owned)}, buffer)
        content = buffer.getvalue()
    else:
        content = {
            "cut": content[: len(content) // 2],
            "empty": b"",
            "garbage": random.Random(how).randbytes(400),
            "popped": b".garbage",  # as a pickle: pop from an empty stack
            "list": b"[]\n",
            "pickle": pickle.dumps({"state_dict": Payload(owned)}),
        }[kind]
    path.write_bytes(content)


def _in_largest(path: Path) -> int:
    """A position in the middle of the largest member of a zip: of a tensor, in a checkpoint."""
    with zipfile.ZipFile(path) as opened:
        member = max(opened.infolist(), key=lambda item: item.file_size)
    content = path.read_bytes()
    names, extra = (int.from_bytes(content[member.header_offset + k :][:2], "little") for k in (26, 28))
    return member.header_offset + 30 + names + extra + member.file_size // 2


def damages(rng: random.Random, flips: int) -> list[tuple[str, str]]:
    """(file, how) for every kind of damage, with some bits drawn at random."""
    checkpoint = [
        "cut",
        "empty",
        "garbage",
        "popped",
        "pickle",
        "zipped",
        "flip tensor",
        *(f"flip {rng.random()}" for _ in range(flips)),
    ]
    record = [("metrics.json", h) for h in ("garbage", "empty", "cut", "list", "digit")]
    record += [("manifest.json", h) for h in ("garbage", "empty", "cut", "list")]
    record += [(file, h) for file in ("metrics.csv", "config.yaml") for h in ("garbage", "empty")]
    return [*(("last.ckpt", how) for how in checkpoint), *record]


def states(bench: Bench, victim: str, dependent: str | None) -> tuple[Plan, Plan]:
    """A run that is finished but for what needs the victim, and one that was killed in the middle of the victim."""
    finished = bench.fresh(bench.undisturbed)
    if dependent is not None:
        (finished.stages[dependent].directory / "manifest.json").unlink()
    for saved in (3, 2, 1):  # a short stage saves once or twice
        if (open_ := _killed_after(bench, victim, saved)) is not None:
            return finished, open_
    raise RuntimeError(f"{victim} could not be stopped in the middle")


def _killed_after(bench: Bench, victim: str, saved: int) -> Plan | None:
    """A run that was killed when the victim had saved so often; None if it does not save once more."""
    this, saves = bench.fresh(), itertools.count()

    def die(_: int, target: Path) -> None:
        if target == this.stages[victim].directory / "last.ckpt" and next(saves) == saved:
            os.kill(os.getpid(), signal.SIGKILL)

    child = bench.start(saving(this, 0), before=lambda: on_replace(die))
    child.join(PATIENCE.seconds)
    return this if child.exitcode == -signal.SIGKILL else None


def small(whole: Plan) -> tuple[str, str | None]:
    """The trained stage to damage, and the stage that needs it and least besides (None if no stage needs one)."""
    needing = [n for n, s in whole.stages.items() if any(whole.stages[p].fit for p in s.predecessors)]
    if not needing:
        return next(name for name, stage in whole.stages.items() if stage.fit), None
    least = min(needing, key=lambda name: len(portion(whole, name).stages))
    return next(p for p in whole.stages[least].predecessors if whole.stages[p].fit), least


def corruption(bench: Bench, state: Plan, victim: str, file: str, how: str) -> Trial:
    """Damage one file of the victim in a copy of a run, and run that again."""
    this, owned = bench.fresh(state), bench.folder / "owned"
    path = this.stages[victim].directory / file
    done, needed = (path.parent / "manifest.json").exists(), any(victim in s.predecessors for s in this.stages.values())
    damage(path, how, owned)
    # The curves of a finished stage and a checkpoint that nothing needs are not looked at again by a run.
    unread = done and (file == "metrics.csv" or (file == "last.ckpt" and not needed))
    problem = bench.again(this, ignoring=(victim, file) if unread else None)
    if owned.exists():
        owned.rmdir()
        problem = "the payload was executed"
    return Trial("corruption", f"{file} of {'a finished' if done else 'an open'} stage: {how}", problem)


def concurrent(bench: Bench) -> Trial:
    """Two processes on the same run from the start."""
    this = bench.fresh()
    children = [bench.start(this) for _ in range(2)]
    problems = [bench.ended(child, this, 0) for child in children]
    trained = sorted(line for line in bench.text(this).splitlines() if line.startswith("trains: "))
    once = trained == sorted(f"trains: {name}" for name in this.stages)
    return Trial("concurrent", "from the start", "".join(problems) or ("" if once else f"trained: {trained}"))


def ranks(bench: Bench, victim: str, rng: random.Random, count: int) -> Iterator[Trial]:
    """One of the processes that train a stage together is killed: the stage is tried once more and ends the same."""
    folder = bench.plan.stages[victim].directory.name
    for _ in range(count):
        this = bench.fresh()
        child = bench.start(saving(this, 0))
        place = root(this) / folder
        while not (place / "last.ckpt").exists() and child.is_alive():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        members = sorted(processes_of(place / "request.json"))
        index = rng.randrange(len(members)) if members else 0
        if members:
            os.kill(members[index], signal.SIGKILL)
        problem = bench.ended(child, this, 0)
        if not problem and members and "tried once more" not in bench.text(this):
            problem = "it does not say that it was tried again"
        yield Trial("rank", f"process {index} of {len(members)}", problem or ("" if members else "nothing to kill"))


def processes_of(word: Path) -> list[int]:
    """The processes with this word in their command line; none where there is no /proc."""
    listed = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(word) in (process / "cmdline").read_text():
                listed.append(int(process.name))
        except OSError:  # it ended while we looked
            continue
    return listed


def full_at(bench: Bench, number: int) -> Trial | None:
    """A disk that is full from the n-th file on, then has room again; None if the run has fewer files."""

    def full(seen: int, target: Path) -> None:
        if seen >= number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    this = bench.fresh()
    child = bench.start(saving(this, 3600), before=lambda: on_replace(full))
    problem = bench.ended(child, this, 1, 0)
    if child.exitcode == 0 and not problem:
        return None
    if not problem and "the disk is full" not in bench.text(this):
        problem = "it does not say that the disk is full"
    return Trial("disk", f"full at file {number}", problem or bench.again(this))


def full_disk(bench: Bench, room: int) -> Trial | None:
    """A real file system with this many bytes, then with enough; None where this user cannot mount one."""
    this = bench.fresh()
    if not _mount("-t", "tmpfs", "-o", f"size={room}", "soak", str(root(this))):
        return None
    try:
        child = bench.start(this)
        problem = bench.ended(child, this, 1, 0)
        if not problem and child.exitcode and "the disk is full" not in bench.text(this):
            problem = "it does not say that the disk is full"
        _mount("-o", "remount,size=1g", str(root(this)))
        return Trial("disk", f"{room} bytes", problem or bench.again(this))
    finally:
        subprocess.run(["umount", str(root(this))], check=False, capture_output=True)


def _mount(*arguments: str) -> bool:
    try:
        return subprocess.run(["mount", *arguments], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def read_only(bench: Bench) -> Trial:
    """A folder that cannot be written; for root, who can write anywhere, as somebody else."""
    this = bench.fresh()
    root(this).chmod(0o555)
    child = bench.start(this, before=lambda: os.setuid(65534) if os.geteuid() == 0 else None)
    problem = bench.ended(child, this, 2)
    if not problem and "cannot write to" not in bench.text(this):
        problem = "it does not say what cannot be written"
    root(this).chmod(0o755)
    return Trial("disk", "read-only folder", problem or bench.again(this))


def clock_jump(bench: Bench, seed: int) -> Trial:
    """A wall clock that jumps by up to a year, in both directions, at every look."""
    real, rng = time.time, random.Random(seed)

    def jumping() -> None:
        time.time = lambda: real() + rng.uniform(-3e7, 3e7)

    this = bench.fresh()
    return Trial("clock", f"seed {seed}", bench.ended(bench.start(this, before=jumping), this, 0))


def interrupt(bench: Bench, times: int, moment: float | None = None, number: int = signal.SIGINT) -> Trial:
    """Ctrl-C once or twice (or SIGTERM), after `moment` seconds or (None) in the first step of the first training."""
    this, first = bench.fresh(), itertools.count()

    def press(event: dict[str, Any]) -> None:
        if moment is None and event["event"] == "progress" and next(first) == 0:
            for _ in range(times):
                signal.raise_signal(number)

    child = bench.start(saving(this, 3600), hook=press)
    if moment is not None:
        child.join(moment)
        for _ in range(times if child.exitcode is None else 0):
            os.kill(child.pid, number)
            time.sleep(0.01)  # two signals at the same moment are one
    problem = bench.ended(child, this, 130, 0)
    saved = any((s.directory / "last.ckpt").exists() for s in this.stages.values())
    if moment is None and not problem and (child.exitcode != 130 or saved != (times == 1)):
        problem = f"it ended with {child.exitcode}, {'with' if saved else 'without'} a checkpoint"
    how = f"{signal.Signals(number).name} {'once' if times == 1 else 'twice'}"
    name = f"{how} {'in the first step' if moment is None else f'after {moment:.2f} s'}"
    return Trial("interrupt", name, problem or bench.again(this))


def sweeps(bench: Bench, lines: Sequence[str], count: int) -> Iterator[Trial]:
    """A sweep of many short jobs, and the same one from its other end at the same time."""
    runs = bench.folder / "sweep"
    (name, _), *_ = bench.plan.stages.items()
    others = [f"~stages.{n}" for n in stages_of(lines) if n != name]
    bare = ["claims=[]", "checks=[]", "published=[]", f"objective={name}/test/n", f"runs_dir={runs}"]
    lines = [line for line in lines if not line.startswith("checkpoint_seconds")]
    children = []
    for seeds in (f"range(0,{count})", f"range({count - 1},-1,-1)"):
        words = [sys.executable, "-m", "experiments.run", "-m", *lines, *others, *bare, f"seed={seeds}"]
        children.append(subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    problem = ""
    for child in children:
        said = child.communicate(timeout=PATIENCE.seconds + 10 * count)[0].decode(errors="replace")
        if child.returncode:
            problem = problem or f"a sweep ended with {child.returncode}: {said[-200:]}"
    base = runs / bench.plan.paper / bench.plan.scale
    for seed in range(count):
        records = list((base / f"seed={seed}").glob(f"{name}-*/manifest.json"))
        lost = "" if len(records) == 1 else f"{len(records)} records"
        yield Trial("sweep", f"seed {seed}", problem or lost)


def stages_of(lines: Sequence[str]) -> list[str]:
    """The names of all stages of a command line's plan."""
    return list(plan(compose.compose(compose.request(lines).overrides), 0).stages)
