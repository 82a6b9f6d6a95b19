"""Runs the stages of one plan: each once, resumable, isolated from the failures of others.

A stage's folder holds config.yaml, metrics.json, metrics.csv, last.ckpt and manifest.json; the manifest is written last
and marks the stage as done. Torch is imported only when a stage really has to run.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from experiments import files
from experiments.devices import processes
from experiments.errors import InputError, RunError
from experiments.plan import Plan, Stage
from experiments.processes import on_this_machine
from experiments.provenance import code_version, hardware, versions

Report = Callable[[dict[str, Any]], None]


@dataclass
class Outcome:
    """What became of a stage: status is done, failed or skipped; cached if it had been done before."""

    stage: str
    status: str
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    exit_code: int = 0
    cached: bool = False
    seconds: float = 0.0


class Damaged(Exception):
    """A finished stage whose checkpoint cannot be read."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage = stage


def silent(event: dict[str, Any]) -> None:
    """A Report that drops everything."""


def finished(stage: Stage) -> dict[str, Any] | None:
    """The manifest of a stage that is done, with its metrics; None otherwise."""
    manifest = files.read_json(stage.directory / "manifest.json")
    metrics = files.read_json(stage.directory / "metrics.json")
    if not isinstance(manifest, dict) or not isinstance(metrics, dict):
        return None
    if manifest.get("fingerprint") != stage.fingerprint or manifest.get("metrics_hash") != _hash(metrics):
        return None
    return {**manifest, "metrics": metrics}


def _hash(metrics: Mapping[str, float]) -> str:
    """Ties metrics.json to its manifest: a number changed afterwards is noticed."""
    return hashlib.sha256(json.dumps(metrics, sort_keys=True).encode()).hexdigest()[:16]


def run(plan: Plan, report: Report = silent) -> dict[str, Outcome]:
    """Run every stage of a plan that is not done yet, in order.

    A stage that fails is recorded and what needs it is skipped; the rest goes on. Ctrl-C saves, then stops all.
    """
    outcomes: dict[str, Outcome] = {}
    for name, stage in plan.stages.items():
        lost = [needed for needed in stage.predecessors if outcomes[needed].status != "done"]
        if lost:
            outcomes[name] = Outcome(name, "skipped", reason=f"needs {', '.join(lost)}")
        else:
            outcomes[name] = _attempt(plan, stage, report)
        report({"event": "stage", "seed": plan.seed, **vars(outcomes[name])})
    return outcomes


def _attempt(plan: Plan, stage: Stage, report: Report) -> Outcome:
    try:
        return ensure(plan, stage, report)
    except Exception as error:  # noqa: BLE001 - the one place where a failure of any kind is turned into a record
        reason, code = explain(error)
        with contextlib.suppress(OSError):  # on a full disk there is no room for the trace either; the reason is shown
            files.write_text(stage.directory / "failure.txt", "".join(traceback.format_exception(error)))
        return Outcome(stage.name, "failed", reason=reason, exit_code=code)


def explain(error: BaseException) -> tuple[str, int]:
    """One line for people, and the exit code."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        if isinstance(link, InputError | RunError):
            return str(link), link.exit_code
        if type(link).__name__ == "DataError":  # known by name, so that torch need not be imported to look
            # A worker process puts its whole trace into the message; what it said comes last.
            return str(link).rpartition("DataError: ")[2].strip(), InputError.exit_code
        if isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT):
            return "the disk is full: free space and run the same command again", RunError.exit_code
        if isinstance(link, OSError) and link.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            where = link.filename or "the runs folder"
            return f"cannot write to {where}: {link.strerror}; name another with runs_dir=...", InputError.exit_code
    first = str(error).strip().splitlines()
    return f"{type(error).__name__}: {first[0] if first else 'no message'}", 1


def ensure(plan: Plan, stage: Stage, report: Report = silent) -> Outcome:
    """Run one stage unless it is done; its predecessors must be done.

    Raises whatever the stage raises, and OSError when the disk is full or the folder read-only.
    """
    for _ in range(len(plan.stages) + 1):
        try:
            with _locked(stage, report):
                done = finished(stage)
                if done is not None:
                    return Outcome(stage.name, "done", done["metrics"], cached=True, seconds=done["seconds"])
                for part in stage.directory.glob(".*.part"):
                    part.unlink()  # of a process that was killed while it wrote
                _write_config(stage)
                text = f"{stage.name} of seed {plan.seed} measures time: waiting for the stages that run beside it"
                with on_this_machine(stage.alone, partial(report, {"event": "warning", "text": text})):
                    report({"event": "start", "seed": plan.seed, "stage": stage.name})
                    manifest = _train(plan, stage, report)
                return Outcome(stage.name, "done", manifest["metrics"], seconds=manifest["seconds"])
        except Damaged as damage:
            report({"event": "warning", "text": f"{damage}; the stage runs again"})
            ensure(plan, plan.stages[damage.stage], report)
    raise RunError(f"{stage.name}: checkpoints of its predecessors keep failing to load")


@contextlib.contextmanager
def _locked(stage: Stage, report: Report) -> Iterator[None]:
    stage.directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(stage.directory.with_name(f".{stage.directory.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report({"event": "warning", "text": f"{stage.name}: waiting for another process that is running this stage"})
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write_config(stage: Stage) -> None:
    text = yaml.safe_dump(stage.config(), sort_keys=False)
    files.write_text(stage.directory / "config.yaml", text)


def _train(plan: Plan, stage: Stage, report: Report) -> dict[str, Any]:
    from experiments import training

    training.quiet()
    if processes(stage.trainer) > 1:
        result = training.in_own_processes(plan, stage)
    else:
        result = training.train(plan, stage, report)
    files.write_json(stage.directory / "metrics.json", result["metrics"])
    manifest = {
        "paper": plan.paper,
        "scale": plan.scale,
        "variant": plan.variant,
        "stage": stage.name,
        "seed": stage.seed,
        "fingerprint": stage.fingerprint,
        "metrics_hash": _hash(result["metrics"]),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code_version(),
        "versions": versions(),
        "hardware": hardware(),
        **{key: value for key, value in result.items() if key != "metrics"},
    }
    files.write_json(stage.directory / "manifest.json", manifest)
    (stage.directory / "failure.txt").unlink(missing_ok=True)
    return {**manifest, "metrics": result["metrics"]}


def to_json(plan: Plan, stage: Stage) -> str:
    """A stage and all that it needs as JSON, for a process of its own."""
    stages = {name: {**item.config(), "directory": str(item.directory)} for name, item in plan.stages.items()}
    return json.dumps({**vars(plan), "stages": stages, "stage": stage.name})


def from_json(text: str) -> tuple[Plan, Stage]:
    """The inverse of to_json."""
    value = json.loads(text)
    name = value.pop("stage")
    stages = {key: Stage(**{**item, "directory": Path(item["directory"])}) for key, item in value["stages"].items()}
    plan = Plan(**{**value, "stages": stages})
    return plan, stages[name]


def exit_code(outcomes: Mapping[str, Outcome]) -> int:
    return max((outcome.exit_code for outcome in outcomes.values()), default=0)
