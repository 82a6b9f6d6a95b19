"""Runs the stages of one plan: each once, resumable, isolated from the failures of others.

A stage's folder holds config.yaml, metrics.json, metrics.csv, last.ckpt and manifest.json; the manifest is written last
and marks the stage as done. Torch is imported only when a stage really has to run.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import cast

import yaml
from filelock import FileLock, Timeout

from experiments.common import failure, files
from experiments.common.errors import KilledError, RunError
from experiments.identity import content
from experiments.identity.provenance import code_version, hardware, versions
from experiments.running.devices import processes, settle_accelerator
from experiments.running.manifest import (
    SPENT,
    Damaged,
    Event,
    Manifest,
    Measured,
    Report,
    finished,
    hash_metrics,
    silent,
)
from experiments.running.plan import Plan, Stage
from experiments.running.processes import TRIES, cpu_seconds, on_this_machine, told_to_end


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

    def event(self, seed: int) -> Event:
        """What is told of it."""
        return cast(Event, {"event": "stage", "seed": seed, **vars(self)})


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
            outcomes[name] = attempt(plan, stage, report)
        report(outcomes[name].event(plan.seed))
    return outcomes


def attempt(plan: Plan, stage: Stage, report: Report) -> Outcome:
    """Run a stage whose predecessors are done; what it raises becomes its outcome, Ctrl-C aside."""
    try:
        return ensure(plan, stage, report)
    except Exception as error:  # noqa: BLE001 - the one place where a failure of any kind is turned into a record
        reason, code = failure.explain(error, stage.directory / failure.NAME)
        return Outcome(stage.name, "failed", reason=reason, exit_code=code)


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
                _say_what_is_damaged(stage, report)
                for part in stage.directory.glob(".*.part"):
                    part.unlink()  # of a process that was killed while it wrote
                _write_config(stage)
                with on_this_machine(stage.exclusive, partial(_say_who_is_waited_for, plan, stage, report)):
                    report({"event": "start", "seed": plan.seed, "stage": stage.name})
                    manifest = _train(plan, stage, report)
                return Outcome(stage.name, "done", manifest["metrics"], seconds=manifest["seconds"])
        except Damaged as damage:
            report({"event": "warning", "text": f"{damage}; the stage runs again"})
            ensure(plan, plan.stages[damage.stage], report)
    raise RunError(f"{stage.name}: checkpoints of its predecessors keep failing to load")


def _say_who_is_waited_for(plan: Plan, stage: Stage, report: Report, processes: str) -> None:
    others = "the stages that run beside it" if stage.exclusive else "one that measures time"
    report({"event": "warning", "text": f"{stage.name} of seed {plan.seed}: waiting for {others}, {processes}"})


def _say_what_is_damaged(stage: Stage, report: Report) -> None:
    """What nothing of ours writes half: a file that is there and cannot be read was changed by something else."""
    for name in ("manifest.json", "metrics.json"):
        path = stage.directory / name
        if path.exists() and not isinstance(files.read_json(path), dict):
            report({"event": "warning", "text": f"{path} is damaged; the stage runs again"})


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


def _train(plan: Plan, stage: Stage, report: Report) -> Manifest:
    os.environ.setdefault("OMP_NUM_THREADS", str(plan.config["threads"]))  # read when libraries are first imported
    from experiments.running import process_memory, training

    training.quiet()
    stage = replace(stage, trainer=settle_accelerator(stage.trainer))
    if processes(stage.trainer) > 1:
        began = cpu_seconds()
        result = _train_in_processes(plan, stage, report)
        result["cpu_seconds"] = round(cpu_seconds() - began, 2)  # rank 0 knows only of itself
    else:
        result = cast(Measured, training.train(plan, stage, report))
        process_memory.give_back_freed_blocks()
    files.write_json(stage.directory / "metrics.json", result["metrics"])
    content.forget()
    manifest = {
        "paper": plan.paper,
        "scale": plan.scale,
        "variant": plan.variant,
        "stage": stage.name,
        "seed": stage.seed,
        "fingerprint": stage.fingerprint,
        "registered": plan.registered,
        **({} if plan.try_of is None else {"try_of": plan.try_of, "attempt": plan.attempt}),
        "content": content.digest(stage.data),
        "metrics_hash": hash_metrics(result["metrics"]),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code_version(),
        "versions": versions(),
        "hardware": hardware(),
        **{key: value for key, value in result.items() if key != "metrics"},
    }
    (stage.directory / SPENT).unlink(missing_ok=True)
    files.write_json(stage.directory / "manifest.json", manifest)
    (stage.directory / failure.NAME).unlink(missing_ok=True)
    return cast(Manifest, {**manifest, "metrics": result["metrics"]})


def _train_in_processes(plan: Plan, stage: Stage, report: Report) -> Measured:
    """Several ranks; where one is killed the stage goes on from what was saved, once."""
    from experiments.running import training

    tries = 0
    while True:
        tries += 1
        try:
            return cast(Measured, training.in_own_processes(plan, stage))
        except KilledError as error:
            if told_to_end():
                raise
            if tries == TRIES:
                raise RunError(f"{error}, {TRIES} times") from error
            report({"event": "warning", "text": f"{error}; it is tried once more"})


def exit_code(outcomes: Mapping[str, Outcome]) -> int:
    return max((outcome.exit_code for outcome in outcomes.values()), default=0)
