"""W&B offline, read back with its own reader; TensorBoard; and nothing for csv."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import engine, loggers
from experiments.plan import Plan


@pytest.mark.slow
def test_wandb_offline_run_holds_group_job_type_config_and_curves(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    plan = make_plan("logger=wandb")
    two = Plan(plan.paper, plan.scale, None, 0, {n: plan.stages[n] for n in ("init", "teacher_a")}, plan.config)
    outcomes = engine.run(two)
    assert all(outcome.status == "done" for outcome in outcomes.values()), outcomes
    reader = Path(sys.executable).with_name("wandb")
    runs = list(tmp_path.glob("meal_v2/smoke/seed=0/*/wandb/offline-run-*"))
    assert len(runs) == 2  # one for each stage: finish() after every stage
    folder = next(run for run in runs if "init-" in str(run))
    shown = subprocess.run(
        [reader, "leet", "inspect", "--summary", "--json", folder], capture_output=True, text=True, check=True
    ).stdout
    summary = json.loads(shown)
    assert summary["state"] == "finished"
    assert "test/top1" in json.dumps(summary["summary"])
    lines = subprocess.run(
        [reader, "leet", "inspect", "--json", folder], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    (run,) = [r["run"] for r in records if r["type"] == "run"]
    assert (run["project"], run["job_type"], run["run_group"]) == ("reprise", "init", loggers.group_name(plan))
    assert run["tags"] == ["meal_v2", "smoke", "seed=0"]
    assert run["config"]["update"]["stage"]["data"]["label_noise"] == 0.3
    curve = [r for r in records if r["type"] == "history" and "train/loss" in r["history"]["item"]]
    assert len(curve) == 3


def test_tensorboard_writes_event_files(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("logger=tensorboard")
    assert engine.ensure(plan, plan.stages["init"]).status == "done"
    assert list((plan.stages["init"].directory / "tensorboard").glob("events.out.tfevents.*"))


def test_csv_adds_nothing(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan()
    assert loggers.open_logger(plan, plan.stages["init"]) is None
