"""Stages of several seeds at a time: what a worker's death costs, and how SIGTERM ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.commands.schedulers import Schedulers
from experiments.common.paths import ROOT
from experiments.config import compose
from experiments.running import pool as running_pool
from experiments.running.plan import Plan, only
from experiments.running.pool import Pool


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """One for all tests, of workers that have imported everything when they start: a command's take seconds for it,
    and here nearly every one is killed and replaced."""
    servers = multiprocessing.get_context("forkserver")
    servers.set_forkserver_preload(["experiments.running.pool", "experiments.running.training"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running_pool, "multiprocessing", SimpleNamespace(get_context=lambda _: servers))
        with Pool(2) as workers:
            yield workers


def test_a_killed_worker_costs_its_stage_one_more_try(pool: Pool, make_plan: Callable[..., Plan]) -> None:
    plans = [only(make_plan("paper=meal_v2", seed=seed), ["untrained", "init"]) for seed in (0, 1)]
    events: list[dict[str, Any]] = []

    def report(event: dict[str, Any]) -> None:
        events.append(event)
        starts = [e for e in events if e["event"] == "start" and e["seed"] == 1]
        if event["event"] == "start" and starts == [event]:
            worker = next(w for w in pool.workers if w.task is not None and w.task[0].seed == 1)
            os.kill(worker.process.pid, signal.SIGKILL)

    outcomes = pool.run(plans, report)
    assert all(outcome.status == "done" for done in outcomes.values() for outcome in done.values())
    assert list(outcomes[0]) == list(plans[0].stages)
    warnings = [event["text"] for event in events if event["event"] == "warning"]
    assert any("its process was killed" in text and "tried once more" in text for text in warnings)


def test_a_stage_that_kills_every_worker_fails_alone(pool: Pool, make_plan: Callable[..., Plan]) -> None:
    this = only(make_plan("paper=meal_v2"), ["untrained", "init", "teacher_a"])

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "start" and event["stage"] == "init":
            worker = next(w for w in pool.workers if w.task is not None and w.task[1].name == "init")
            os.kill(worker.process.pid, signal.SIGKILL)

    outcomes = pool.run([this], report)[0]
    assert outcomes["init"].status == "failed"
    assert "killed" in outcomes["init"].reason
    assert "2 times" in outcomes["init"].reason
    assert outcomes["teacher_a"].status == outcomes["untrained"].status == "done"


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_sigterm_saves_what_runs(jobs: int, tmp_path: Path) -> None:
    """Also where Ctrl-C is ignored, as in a shell's background jobs."""
    lines = ["scale=smoke", f"jobs={jobs}", "seeds=[0,1]", "stages.*.trainer.max_epochs=2000", f"runs_dir={tmp_path}"]
    command = [sys.executable, "-m", "experiments.reproduce", "paper=meal_v2", "checkpoint_seconds=5", *lines]
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, ignored)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not list(tmp_path.rglob("last.ckpt")):
        time.sleep(0.05)
    time.sleep(1)  # long before the next checkpoint
    told_at = time.time()
    process.terminate()
    try:
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "finished stages are kept" in told
    assert max(path.stat().st_mtime for path in tmp_path.rglob("last.ckpt")) >= told_at


def test_a_command_keeps_its_workers_for_all_its_papers() -> None:
    with Schedulers() as schedulers:
        first = schedulers.of(compose.compose(["paper=meal_v2", "scale=smoke", "jobs=2"]), 10)
        assert schedulers.of(compose.compose(["paper=rotnet", "scale=smoke", "jobs=2"]), 4) is first
        other = schedulers.of(compose.compose(["paper=rotnet", "scale=smoke", "jobs=2"]), 1)
        assert isinstance(first, Pool)
        assert isinstance(other, Pool)
        assert (first.count, other.count) == (2, 1)
