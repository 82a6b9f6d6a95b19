"""Sweeps through Hydra's launchers and sweepers: each stage once, nothing lost, one table at the end."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from experiments.commands import run, sweep
from experiments.common import files
from experiments.common.errors import InputError
from experiments.common.paths import ROOT
from experiments.config import compose
from experiments.evidence.sweeps import Sweep
from experiments.pages import console
from tests.command import command as quick


def job(folder: Path, number: int, overrides: list[str], value: float | None, seed: int = 0, code: int = 0) -> None:
    actual = {"paper": "p", "scale": "smoke", "seed": seed, "overrides": overrides, "objective": "a/test/top1"}
    files.write_json(folder / str(number) / "job.json", {**actual, "value": value, "exit_code": code, "reason": "why"})


def test_jobs_that_differ_in_seed_alone_are_one_setting(tmp_path: Path) -> None:
    for number, (weight, seed, value) in enumerate([(0, 0, 1.0), (0, 1, 3.0), (1, 0, 5.0), (1, 1, None)]):
        job(tmp_path, number, ["common=1", f"w={weight}"], value, seed, code=0 if value else 1)
    job(tmp_path, 10, ["common=1", "w=2"], 7.0)
    first, second, third = sweep.settings(sweep.gather(tmp_path))
    assert (first.setting, first.mean, first.seeds) == ("w=0", 2.0, [0, 1])
    assert first.interval == pytest.approx([2 - 12.7062, 2 + 12.7062], abs=1e-3)  # t(0.975, 1) = 12.7062, s.e. 1
    assert (second.values, second.interval, second.failed) == ([5.0], None, ["seed 1: why"])
    assert third.setting == "w=2"


def test_a_named_sweep_is_found_and_the_user_wins_over_it() -> None:
    name, lines = run._named(["scale=smoke", "sweep=hard_labels", "seed=5"])
    assert name == "hard_labels"
    assert [line for line in lines if line.startswith("seed=")] == ["seed=5"]
    assert any(line.startswith("stages.student.module.labels.hard=") for line in lines)
    assert {"hydra/launcher=joblib", "hydra.launcher.n_jobs=2"} <= set(lines)  # the sweep says jobs: 2
    _, lines = run._named(["sweep=hard_labels", "hydra/launcher=submitit_local"])
    assert [line for line in lines if "launcher" in line] == ["hydra/launcher=submitit_local"]
    _, lines = run._named(["sweep=hard_labels", "hydra.launcher.n_jobs=5"])
    assert [line for line in lines if "n_jobs" in line] == ["hydra.launcher.n_jobs=5"]
    with pytest.raises(InputError, match="did you mean 'hard_labels'"):
        run._named(["sweep=hard_label"])


def test_every_named_sweep_composes() -> None:
    for path in (compose.CONF / "sweep").glob("*/*.yaml"):
        run._check(
            compose.request([f"paper={path.parent.name}", *compose.sweep_file(path.parent.name, path.stem).arguments])
        )


def test_a_pattern_of_papers_is_checked_paper_by_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    checked = []
    monkeypatch.setattr(sweep, "objective", lambda plan, needed: checked.append(plan.paper))
    run._check(compose.request(["paper=glob(me*)", "scale=smoke"]))
    assert checked == [paper for paper in compose.papers() if paper.startswith("me")] == ["meal_v2", "mee"]


def test_an_objective_of_no_stage_is_named() -> None:
    with pytest.raises(InputError, match="objective: stage 'stdent' does not exist; did you mean 'student'"):
        run._check(compose.request(["scale=smoke", "objective=stdent/test/top1"]))


def objective_of(*lines: str) -> sweep.Objective:
    config = compose.compose(compose.request(["scale=smoke", *lines]).overrides)
    chosen = sweep.objective(run._planned(config))
    assert chosen is not None
    return chosen


METRICS = {"student": {"test/top1": 71.0}, "continued": {"test/top1": 68.5}}


@pytest.mark.parametrize(
    ("given", "value"),
    [("difference", 2.5), ("student/test/top1 - continued/test/top1", 2.5), ("continued/test/top1", 68.5)],
)
def test_an_objective_is_a_metric_arithmetic_or_the_main_claims_difference(given: str, value: float) -> None:
    chosen = objective_of(
        f"objective={given}",
        "claims=[{name: a, main: true, better: student/test/top1, than: continued/test/top1, worth: 1}]",
    )
    assert chosen.value(METRICS, 0) == value
    assert math.isnan(chosen.value({"init": {"test/top1": 1.0}}, 0))


def test_a_difference_where_lower_is_better_is_turned() -> None:
    claim = "claims=[{name: a, main: true, lower_is_better: true, better: student/test/top1, than: 70, worth: 1}]"
    assert objective_of("objective=difference", claim).value(METRICS, 0) == -1.0


def test_a_run_of_some_stages_has_what_they_need_and_an_objective_among_them() -> None:
    config = compose.compose(compose.request(["scale=smoke", "only=[continued]"]).overrides)
    assert list(run._planned(config).stages) == ["init", "continued"]
    with pytest.raises(InputError, match="objective: stage 'student' does not exist"):
        run._check(compose.request(["scale=smoke", "only=[continued]", "objective=student/test/top1"]))
    with pytest.raises(InputError, match="only: stage 'stdent' does not exist; did you mean 'student'"):
        run._check(compose.request(["scale=smoke", "only=stdent"]))


def test_a_single_run_without_claims_needs_no_objective() -> None:
    without_claims = compose.request(["paper=nasnet", "scale=full", "variant=wide"])
    run._check(without_claims, needs_objective=False)
    with pytest.raises(InputError, match="no claim names a metric to take"):
        run._check(without_claims)


def command(*lines: str) -> list[str]:
    return [sys.executable, "-m", "experiments.run", "-m", "scale=smoke", *lines]


def forked(*lines: str) -> subprocess.CompletedProcess[str]:
    """The same where none of its processes is to be killed, and none of its jobs goes through joblib."""
    return quick("run", "-m", "scale=smoke", *lines)


FEW = [f"~stages.{name}" for name in ("continued", "soft", "one_teacher", "student_untrained")]
FEW += ["~stages.continued_wd", "~stages.student_wd", "~claims", "~published", "objective=student/test/top1"]


def manifests(runs: Path) -> dict[str, str]:
    return {str(p.parent): json.loads(p.read_text())["finished"] for p in runs.glob("meal_v2/smoke/*/*/manifest.json")}


def table(runs: Path, name: str) -> dict[str, Any]:
    return json.loads((runs / "meal_v2" / "smoke" / "sweeps" / f"{name}.json").read_text())


@pytest.mark.slow
def test_a_parallel_sweep_killed_half_way_does_only_what_is_missing(tmp_path: Path) -> None:
    lines = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1", f"runs_dir={tmp_path}"]
    lines += ["stages.student.module.labels.hard=0,1", "sweep=hard_labels", *FEW]
    process = subprocess.Popen(
        command(*lines), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None and len(manifests(tmp_path)) < 5:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = manifests(tmp_path)
    assert before
    done = subprocess.run(command(*lines), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    after = manifests(tmp_path)
    assert {folder: after[folder] for folder in before} == before, "a finished stage ran again"
    names = [Path(folder).name.rsplit("-", 1)[0] for folder in after]
    assert names.count("student") == 4
    assert names.count("teacher_a") == names.count("init") == 2  # once per seed, although jobs ran at the same time
    actual = table(tmp_path, "hard_labels")
    assert [len(row["values"]) for row in actual["settings"]] == [2, 2]


@pytest.mark.slow
def test_a_search_is_kept_in_its_storage_and_continued(tmp_path: Path) -> None:
    import sqlite3

    lines = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.n_jobs=1", f"runs_dir={tmp_path}"]
    lines += ["hydra.sweeper.direction=maximize", f"hydra.sweeper.storage=sqlite:///{tmp_path}/study.db"]
    lines += ["hydra.sweeper.study_name=s", "seed=0", "stages.student.module.labels.hard=interval(0,1)", *FEW]
    for trials in (2, 4):
        done = forked(*lines)
        assert done.returncode == 0, done.stdout + done.stderr
        with sqlite3.connect(tmp_path / "study.db") as database:
            assert database.execute("select count(*) from trials where state='COMPLETE'").fetchone() == (trials,)
    names = [Path(folder).name.rsplit("-", 1)[0] for folder in manifests(tmp_path)]
    assert names.count("teacher_a") == 1


@pytest.mark.slow
def test_a_failing_job_does_not_end_the_others(tmp_path: Path) -> None:
    lines = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", f"runs_dir={tmp_path}", "seed=0"]
    lines += ["stages.init.module.optimizer.lr=1e9,0.05", "hydra.launcher.cpus_per_task=1", *FEW]
    done = forked(*lines)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 jobs, 1 failed" in done.stdout
    assert "Traceback" not in done.stderr
    (path,) = (tmp_path / "meal_v2" / "smoke" / "sweeps").glob("*.json")
    failed, fine = json.loads(path.read_text())["settings"]
    assert failed["values"] == []
    assert "learning rate is 1e+09" in failed["failed"][0]
    assert len(fine["values"]) == 1


@pytest.mark.slow
def test_two_processes_inside_a_sweep_train_the_same_hyper_parameters(tmp_path: Path) -> None:
    """The trap: a rank that re-runs the sweep trains another job's values and nobody notices."""
    lines = ["trainer=ddp_cpu", "seed=0", f"runs_dir={tmp_path}", "stages.init.module.optimizer.lr=0.05,0.01"]
    stages = ["~stages.teacher_a", "~stages.teacher_b", "~stages.ensemble", "~stages.student", "~stages.continued"]
    stages += ["~stages.continued_wd", "~stages.soft", "~stages.one_teacher", "~stages.student_wd"]
    stages += ["~stages.student_untrained", "~claims", "objective=init/test/top1"]
    done = subprocess.run(
        command(*lines, *stages, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    single = tmp_path / "single"
    reference = [line for line in lines if "trainer" not in line and "runs_dir" not in line]
    done = forked(*reference, *stages, "trainer=cpu", f"runs_dir={single}")
    assert done.returncode == 0, done.stdout + done.stderr

    def top1(runs: Path) -> list[float]:
        (path,) = (runs / "meal_v2" / "smoke" / "sweeps").glob("*.json")
        return [row["mean"] for row in json.loads(path.read_text())["settings"]]

    # Three epochs of float rounding move 3 to 5 images of 1,000, by processor; another job's rate over a hundred.
    assert top1(tmp_path) == pytest.approx(top1(single), abs=1)
    assert abs(top1(single)[0] - top1(single)[1]) > 5


def test_names_in_brackets_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    record = Sweep(name="[red]", paper="k", scale="mini", written="2026", objective="a/test/x", settings=[])
    console.out.print(sweep.table(record))
    console.say("runs: /data/[bold]/[/x]")
    shown = capsys.readouterr().out
    assert "k/mini sweep [red]: a/test/x" in shown
    assert "runs: /data/[bold]/[/x]\n" in shown
