"""Two gloo processes compute what one does: batch statistics, gradients, metrics, and resuming."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from experiments.common import files
from experiments.common.paths import ROOT
from experiments.config import compose
from experiments.running import callbacks, engine
from experiments.running.manifest import silent
from experiments.running.plan import Plan
from experiments.running.plan import plan as plan_of

Make = Callable[..., Plan]


@pytest.mark.slow
@pytest.mark.usefixtures("forked_ranks")
@pytest.mark.parametrize("name", ["init", "teacher_b"])  # the second has dropout
def test_a_stage_on_two_processes_is_the_stage_on_one(make_plan: Make, name: str) -> None:
    """Same weights after one step, and the same metrics on a test set whose size is odd."""
    weights, metrics = [], []
    for trainer in ("cpu", "ddp_cpu"):
        sizes = [
            f"stages.{name}.data.train_size=32",
            f"stages.{name}.data.test_size=999",
            f"stages.{name}.trainer.max_epochs=1",
        ]
        plan = make_plan(f"trainer={trainer}", *sizes)
        metrics.append(engine.ensure(plan, plan.stages[name]).metrics)
        weights.append(torch.load(plan.stages[name].directory / "last.ckpt", weights_only=True)["state_dict"])
    assert metrics[0]["test/n"] == metrics[1]["test/n"] == 999
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-5)
    assert all(torch.allclose(weights[0][k].float(), weights[1][k].float(), atol=1e-6) for k in weights[0])


@pytest.mark.slow
@pytest.mark.usefixtures("forked_ranks")
def test_killed_on_two_processes_it_resumes_to_the_same_end(tmp_path: Path) -> None:
    """SIGKILL to the whole process group, then the same again."""
    actual, curves = [], []
    lines = ["scale=smoke", "seed=0", "trainer=ddp_cpu", "stages.init.trainer.max_epochs=20", "checkpoint_seconds=0"]
    code = (
        "import sys; from experiments.config import compose; from experiments.running import engine\n"
        "from experiments.running.plan import plan\n"
        "p = plan(compose.compose(compose.request(sys.argv[1:]).overrides), 0)\n"
        "engine.ensure(p, p.stages['init'])"
    )
    for name in ("unbroken", "killed"):
        asked = [*lines, f"runs_dir={tmp_path / name}"]
        if name == "killed":
            command = [sys.executable, "-c", code, *asked]
            process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
            deadline = time.monotonic() + 240
            while time.monotonic() < deadline and not list((tmp_path / name).rglob("last.ckpt")):
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert not list((tmp_path / name).rglob("manifest.json")), "it ended before it could be killed"
        plan = plan_of(compose.compose(compose.request(asked).overrides), 0)
        assert engine.ensure(plan, plan.stages["init"]).status == "done"
        (checkpoint,) = (tmp_path / name).rglob("last.ckpt")
        actual.append(torch.load(checkpoint, weights_only=True)["state_dict"])
        curves.append((checkpoint.parent / "metrics.csv").read_text().splitlines())
        assert len(curves[-1]) == 21
    assert curves[0] == curves[1]
    assert all(torch.equal(actual[0][key], actual[1][key]) for key in actual[0])


def test_a_bug_in_one_of_several_processes_leads_to_its_line(make_plan: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan("trainer=ddp_cpu")

    def fail(command: list[str], **_: Any) -> Any:
        told = {
            "error": "NameError: name 'x' is not defined, at y.py:3",
            "kind": "code",
            "trace": "the rank's trace",
        }
        files.write_json(Path(command[-1]), told)
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(subprocess, "run", fail)
    stage = plan.stages["init"]
    outcome = engine.attempt(plan, stage, silent)
    assert outcome.exit_code == 1
    assert outcome.reason.startswith("NameError: name 'x' is not defined, at y.py:3; whole trace: ")
    assert "the rank's trace" in (stage.directory / "failure.txt").read_text()


def test_each_process_goes_on_from_its_own_sums_of_an_epoch() -> None:
    """Added up in another order, the means of a resumed epoch differ in their last bits."""
    device = torch.device("cpu")
    sums = [{"loss": torch.tensor(value), "top1": torch.tensor(3.0)} for value in (0.1, 0.7)]
    modules = [SimpleNamespace(device=device, _sums=own, _count=9) for own in sums]
    gathered = torch.tensor([[0.1, 3, 9], [0.7, 3, 9]]).double()  # of numbers in single precision

    def trainer(rank: int) -> Any:
        strategy = SimpleNamespace(all_gather=lambda row: gathered if torch.equal(row, gathered[rank]) else None)
        return SimpleNamespace(lightning_module=modules[rank], strategy=strategy, world_size=2, global_rank=rank)

    table = callbacks._gather_sums(trainer(1))
    own = [module._sums["loss"].clone() for module in modules]
    for rank, module in enumerate(modules):
        module._sums = dict(modules[0]._sums)  # as the checkpoint has it
        callbacks._take_sums(trainer(rank), table)
        assert torch.equal(module._sums["loss"], own[rank])
        assert module._sums["loss"].dtype == torch.float32
        assert module._count == 9
    callbacks._take_sums(trainer(1), None)
    assert (modules[1]._sums, modules[1]._count) == ({}, 0)
