"""Stages as jobs somewhere else: what a lost job costs, what a job asks for, who gets which GPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.common import files
from experiments.common.errors import InputError
from experiments.config import compose
from experiments.running import cluster, devices, engine, pool
from experiments.running.engine import Outcome
from experiments.running.plan import Plan, Stage, only, plan
from experiments.running.pool import Lost, Pool
from tests.command import command
from tests.reliability.soak import shell


class Elsewhere(cluster.Service):
    """Stages end at once; those of `lost` end so many times without an outcome."""

    def __init__(self, **lost: int) -> None:
        self.lost = lost
        self.order: list[tuple[int, str]] = []
        self.cancelled: list[str] = []

    def submit(self, plan: Plan, stage: Stage) -> Any:
        self.order.append((plan.seed, stage.name))
        return stage.name

    def ended(self, job: Any) -> Outcome | Lost | None:
        self.lost[job] = self.lost.get(job, 0) - 1
        return Lost("its node went away") if self.lost[job] >= 0 else Outcome(job, "done")

    def cancel(self, job: Any) -> None:
        self.cancelled.append(job)

    def close(self) -> None:
        """Nothing is held."""


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "PAUSE", 0.0)


def test_a_lost_job_costs_its_stage_one_more_try(make_plan: Callable[..., Plan]) -> None:
    plans = [only(make_plan("paper=meal_v2", seed=seed), ["teacher_a", "untrained"]) for seed in (0, 1)]
    service, events = Elsewhere(teacher_a=1), []
    with cluster.Cluster(service, 10) as there:
        outcomes = there.run(plans, events.append)
    assert {outcome.status for done in outcomes.values() for outcome in done.values()} == {"done"}
    assert len(service.order) == sum(len(plan.stages) for plan in plans) + 1
    assert [event["text"] for event in events if event["event"] == "warning"] == [
        "teacher_a of seed 0: its node went away; it is tried once more"
    ]


def test_a_stage_whose_jobs_are_lost_again_fails_alone(make_plan: Callable[..., Plan]) -> None:
    this = only(make_plan("paper=meal_v2"), ["soft", "untrained"])
    with cluster.Cluster(Elsewhere(teacher_a=2), 1) as there:
        outcomes = there.run([this], lambda event: None)[0]
    assert (outcomes["teacher_a"].status, outcomes["teacher_a"].exit_code) == ("failed", 1)
    assert outcomes["soft"].status == "skipped"
    assert outcomes["untrained"].status == outcomes["teacher_b"].status == "done"


def test_what_still_runs_is_told_to_end(make_plan: Callable[..., Plan]) -> None:
    this = only(make_plan("paper=meal_v2"), ["untrained", "teacher_a"])
    service = Elsewhere()

    def interrupted(job: Any) -> None:
        raise KeyboardInterrupt

    service.ended = interrupted  # type: ignore[method-assign]

    def run() -> None:
        with cluster.Cluster(service, 2) as there:
            there.run([this], lambda event: None)

    with pytest.raises(KeyboardInterrupt):
        run()
    assert sorted(service.cancelled) == sorted(name for _, name in service.order)


@pytest.mark.parametrize("option", shell.OPTIONS)
@pytest.mark.parametrize("text", shell.ACTING)
def test_an_option_is_no_command_of_a_job(option: str, text: str, tmp_path: Path) -> None:
    """Also where it lies within another one: `extra` goes to sbatch as it is."""
    assert shell.submitted(option, text, tmp_path) == ""


@pytest.mark.parametrize("extra", [{"a\ntouch owned": 1}, {"a": ["x\ntouch owned"]}, {"a": {"b": "x\rtouch owned"}}])
def test_an_option_of_several_lines_is_refused_wherever_it_lies(extra: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"launcher\.extra=.*: expected one line"):
        cluster.open_cluster({"name": "submitit_slurm", "extra": extra}, 1, tmp_path)


def test_a_missing_service_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="launcher=submitit_slurm: sbatch is not installed on this machine"):
        cluster.open_cluster({"name": "submitit_slurm"}, "auto", tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match="launcher=ray: ray is not installed: make extras EXTRAS=ray"):
        cluster.open_cluster({"name": "ray", "address": None}, "auto", tmp_path)


def test_a_job_asks_for_the_gpus_of_its_stage(make_plan: Callable[..., Plan]) -> None:
    stage = only(make_plan("paper=meal_v2", "trainer=gpu"), ["untrained"]).stages["untrained"]
    assert cluster._gpus({"gpus": None}, stage) == 1
    assert cluster._gpus({"gpus": 8}, stage) == 8
    stage = only(make_plan("paper=meal_v2", "trainer=cpu"), ["untrained"]).stages["untrained"]
    assert cluster._gpus({"gpus": None}, stage) == 0


@pytest.mark.parametrize(
    ("visible", "asked", "groups"),
    [
        (None, 1, [("0",), ("1",), ("2",), ("3",)]),
        (None, 2, [("0", "1"), ("2", "3")]),
        ("1,3,2", 2, [("1", "3")]),
        (None, -1, [("0", "1", "2", "3")]),
    ],
)
def test_gpus_in_groups(
    visible: str | None, asked: int, groups: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: 4 if visible is None else len(visible.split(",")))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices.gpu_groups({"accelerator": "gpu", "devices": asked}) == groups


def test_each_worker_sees_its_own_gpus(make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str | None] = []

    def hire(threads: int, gpus: tuple[str, ...] | None) -> pool.Worker:
        with pool._seeing(gpus):
            started.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
        return pool.Worker(None, Silent(), gpus)  # type: ignore[arg-type]

    class Silent:
        def send(self, task: object) -> None:
            """Nobody listens."""

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(pool, "_hire", hire)
    workers = Pool(3, [("0", "1"), ("2", "3")])
    this = make_plan("paper=meal_v2")
    for stage in list(this.stages.values())[:3]:
        assert workers._start(this, stage)
    assert started == ["0,1", "2,3", "0,1"]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.slow
def test_reproduce_by_jobs_gives_what_it_gives_here(tmp_path: Path) -> None:
    """Of one seed: each job imports everything anew."""
    metrics = []
    for launcher in ("submitit_local", "local"):
        runs = tmp_path / launcher
        lines = ["paper=bagel", "scale=smoke", "seeds=[0]", f"launcher={launcher}", f"runs_dir={runs}"]
        done = command("reproduce", *lines)
        assert done.returncode == 0, done.stdout + done.stderr
        found = {path.parent.name: files.read_json(path) for path in sorted(runs.glob("bagel/*/*/*/metrics.json"))}
        assert found
        metrics.append(found)
    assert metrics[0] == metrics[1]


@pytest.mark.slow
def test_reproduce_by_ray_gives_what_it_gives_here(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    pytest.importorskip("ray")
    request = compose.request(["paper=meal_v2", "scale=smoke", f"runs_dir={tmp_path}/there"])
    this = only(plan(compose.compose(request.overrides), 0), ["untrained", "init"])
    with cluster.open_cluster({"name": "ray", "address": None, "cpus": 1, "gpus": None}, "auto", tmp_path) as there:
        outcomes = there.run([this], lambda event: None)[0]
    here = engine.run(only(make_plan("paper=meal_v2"), ["untrained", "init"]))
    assert not any(outcome.cached for outcome in here.values())
    assert {name: outcome.metrics for name, outcome in outcomes.items()} == {n: o.metrics for n, o in here.items()}
