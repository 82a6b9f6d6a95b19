"""W&B offline, read back with its own reader; TensorBoard; and nothing for csv."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.common import files
from experiments.common.errors import InputError
from experiments.identity.provenance import code_version
from experiments.running import engine, loggers, preconditions
from experiments.running.plan import Plan

OTHER = {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False}  # a commit that is not the present one


@pytest.fixture
def wandb_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))


def records(folder: Path) -> list[dict[str, Any]]:
    """An offline run read back with W&B's own reader."""
    reader = Path(sys.executable).with_name("wandb")
    line = [reader, "leet", "inspect", "--json", folder]
    return [json.loads(x) for x in subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()]


def models(shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The artifacts of type model; tables are artifacts too."""
    return [r["artifact"] for r in shown if r["type"] == "artifact" and r["artifact"]["type"] == "model"]


@pytest.mark.slow
@pytest.mark.usefixtures("wandb_folders")
def test_wandb_offline_run_holds_group_job_type_config_and_curves(
    make_plan: Callable[..., Plan], tmp_path: Path
) -> None:
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
    logged = records(folder)
    (run,) = [r["run"] for r in logged if r["type"] == "run"]
    group = loggers.group_name(plan, code_version())
    assert (run["project"], run["job_type"], run["run_group"]) == ("reprise", "init", group)
    assert run["tags"] == ["meal_v2", "smoke", "seed=0"]
    assert run["config"]["update"]["stage"]["data"]["train_size"] == 250
    assert run["config"]["update"]["code"] == code_version()
    curve = [r for r in logged if r["type"] == "history" and "train/loss" in r["history"]["item"]]
    assert len(curve) == 3
    assert not models(logged)


@pytest.mark.slow
@pytest.mark.usefixtures("wandb_folders")
def test_a_finished_stage_stands_under_the_commit_that_trained_it(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("logger=wandb")
    stage = plan.stages["init"]
    assert loggers.training_code(stage) == code_version()  # not trained yet
    assert engine.ensure(plan, stage).status == "done"
    (trained,) = stage.directory.glob("wandb/offline-run-*")
    path = stage.directory / "manifest.json"
    files.write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "code": OTHER})
    logger = loggers.open_logger(plan, stage)
    loggers.log_pictures(logger, stage, {"test/top1": 1.0})
    loggers.close_logger(logger)
    (added,) = set(stage.directory.glob("wandb/offline-run-*")) - {trained}
    (run,) = [r["run"] for r in records(added) if r["type"] == "run"]
    assert run["run_group"] == "meal_v2/smoke/01234567"
    assert run["config"]["update"]["code"] == OTHER


def test_group_names(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan()
    assert loggers.group_name(plan, OTHER) == "meal_v2/smoke/01234567"
    assert loggers.group_name(plan, {"commit": None, "dirty": None}) == "meal_v2/smoke/uncommitted"
    assert (
        loggers.group_name(plan, {"commit": "aaaaaaaaaa bbbbbbbbbb", "dirty": True}) == "meal_v2/smoke/several-commits"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("wandb_folders")
def test_checkpoints_become_artifacts_on_request(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan("logger=wandb", "logger.checkpoints=true")
    stage = plan.stages["init"]
    assert engine.ensure(plan, stage).status == "done"
    (folder,) = stage.directory.glob("wandb/offline-run-*")
    (artifact,) = models(records(folder))
    assert artifact["name"] == f"meal_v2-smoke-init-{stage.fingerprint}"
    (content,) = artifact["manifest"]["contents"]
    checkpoint = stage.directory / "last.ckpt"
    assert (content["path"], int(content["size"])) == ("last.ckpt", checkpoint.stat().st_size)
    assert content["local_path"] == str(checkpoint)  # sent from where it lies
    assert [path.parent for path in tmp_path.rglob("*.ckpt")] == [stage.directory]  # no copy of it


def test_checkpoints_must_be_true_or_false(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("logger=wandb", "logger.checkpoints=last")
    with pytest.raises(InputError, match=r"logger\.checkpoints='last': expected true or false"):
        loggers.open_logger(plan, plan.stages["init"])


def test_tensorboard_writes_event_files(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("logger=tensorboard")
    assert engine.ensure(plan, plan.stages["init"]).status == "done"
    assert list((plan.stages["init"].directory / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("trackio", "logger=trackio: the package 'trackio' is not installed: make extras EXTRAS=trackio"),
        ("mlflow", "logger=mlflow: the package 'mlflow' is not installed: make extras EXTRAS=mlflow"),
        ("tensorboard", "logger=tensorboard: the package 'tensorboard' is not installed: make setup"),
        ("wanbd", "logger.name 'wanbd' does not exist; did you mean 'wandb'"),
    ],
)
def test_a_dashboard_that_is_not_there_ends_in_one_line_before_anything_runs(
    name: str, told: str, make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    plan = make_plan()
    plan.config["logger"] = {"name": name}
    for look in (lambda: preconditions.check([plan]), lambda: loggers.open_logger(plan, plan.stages["init"])):
        with pytest.raises(InputError) as failed:
            look()
        assert str(failed.value).startswith(told)


def test_trackio_has_a_run_for_a_stage_with_curves_and_test(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when it is imported
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    plan = make_plan("logger=trackio")
    assert engine.ensure(plan, plan.stages["init"]).status == "done"
    name = loggers.run_name(plan, plan.stages["init"])
    assert name == "meal_v2/smoke/init/seed=0"
    assert SQLiteStorage.get_runs("reprise") == [name]
    rows = SQLiteStorage.get_logs("reprise", name)
    assert sum("train/loss" in row for row in rows) == 3
    assert sum("test/top1" in row for row in rows) == 1


def test_mlflow_has_a_run_for_a_stage_with_curves_and_test(
    make_plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow.tracking import MlflowClient

    plan = make_plan("logger=mlflow")
    assert engine.ensure(plan, plan.stages["init"]).status == "done"
    client = MlflowClient(f"file:{Path(plan.config['runs_dir']).resolve() / 'mlruns'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "reprise"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "meal_v2/smoke/init/seed=0"
    assert run.info.status == "FINISHED"
    assert run.data.tags["fingerprint"] == plan.stages["init"].fingerprint
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 3
    assert "test/top1" in run.data.metrics
    assert str(tmp_path) not in json.dumps(run.data.params)


def test_csv_adds_nothing(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan()
    assert loggers.open_logger(plan, plan.stages["init"]) is None


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("/home/somebody/data/mswal", ".../mswal"),
        ("/home/some body/data", ".../data"),
        ("~/data", ".../data"),
        ("data_dir=/home/somebody/data", "data_dir=.../data"),
        ("x=[/a/b,'/c/d']", "x=[.../b,'.../d']"),
        ("file:///home/somebody/mine", "file://.../mine"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("runs/mine", "runs/mine"),
        ("a/test/top1 - b/test/top1 / 2", "a/test/top1 - b/test/top1 / 2"),
        (0.3, 0.3),
    ],
)
def test_a_dashboard_learns_no_path_of_this_machine(written: Any, shown: Any) -> None:
    assert loggers.without_paths({"stage": [{"root": written}]}) == {"stage": [{"root": shown}]}


def test_every_run_of_wandb_is_started_without_paths(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    plan = make_plan("logger=wandb", f"data_dir={tmp_path}", "data@stages.init.data=mnist")
    config = {"stage": plan.stages["init"].config(), "overrides": [f"data_dir={tmp_path}"]}
    assert str(tmp_path) in json.dumps(config)
    sent = loggers.run_arguments(plan, "init", "name", [], config, code_version())["config"]
    assert str(tmp_path) not in json.dumps(sent)
    assert sent["stage"]["data"]["root"] == f".../{Path(config['stage']['data']['root']).name}"
