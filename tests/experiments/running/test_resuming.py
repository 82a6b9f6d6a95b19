"""Stopped at any moment, a stage goes on to the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.common.errors import RunError
from experiments.common.paths import ROOT
from experiments.running import training
from experiments.running.plan import Plan, only
from tests.command import command
from tests.experiments.running.helpers import Make, collect

RESUME = ["scale=smoke", "stages.student.trainer.max_epochs=12", "checkpoint_seconds=0", "objective=student/test/top1"]
RESUME += [f"~stages.{name}" for name in ("continued", "soft", "one_teacher", "student_untrained")]
RESUME += ["stages.student.data.train_size=250", "~stages.continued_wd", "~stages.student_wd", "~claims", "~published"]


@pytest.mark.slow
def test_killed_and_restarted_ends_bit_identical(tmp_path: Path) -> None:
    """SIGKILL in the middle of the student's training, then the same command again."""
    weights, metrics, rows = [], [], []
    for name in ("unbroken", "killed"):
        lines = ["seed=0", *RESUME, f"runs_dir={tmp_path / name}"]
        if name == "killed":
            arguments = [sys.executable, "-m", "experiments.run", *lines]
            process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and process.poll() is None:
                if any((tmp_path / name).glob("meal_v2/smoke/seed=0/student-*/last.ckpt")):
                    break
                time.sleep(0.01)
            time.sleep(0.3)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            (folder,) = (tmp_path / name).glob("meal_v2/smoke/seed=0/student-*/")
            assert not (folder / "manifest.json").exists(), "the student ended before it could be killed"
            assert torch.load(folder / "last.ckpt", weights_only=True)["epoch"] < 11
        done = command("run", *lines)
        assert done.returncode == 0, done.stdout + done.stderr
        (folder,) = (tmp_path / name).glob("meal_v2/smoke/seed=0/student-*/")
        weights.append(torch.load(folder / "last.ckpt", weights_only=True)["state_dict"])
        metrics.append((folder / "metrics.json").read_text())
        rows.append((folder / "metrics.csv").read_text())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert metrics[0] == metrics[1]
    assert rows[0] == rows[1]


def test_equal_runs_leave_equal_bytes(make_plan: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is in none of them: a run of its own, a slower one, and one that was stopped and went on."""
    from modules.common.classifier import Classifier

    validated_late = "stages.init.trainer.check_val_every_n_epoch=2"  # for the first time after the stop
    plan = only(make_plan("checkpoint_seconds=0", validated_late), ["init"])
    folder = plan.stages["init"].directory
    original = Classifier.training_step

    def stopped(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        if (self.current_epoch, batch_idx) == (1, 5):
            raise RunError("stopped for the test")
        return original(self, batch, batch_idx)

    def slow(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        time.sleep(0.005)
        return original(self, batch, batch_idx)

    saved = []
    for step in (original, slow, stopped):
        monkeypatch.setattr(Classifier, "training_step", step)
        outcome, _ = collect(plan)
        if step is stopped:
            assert outcome["init"].reason == "stopped for the test"
            spent = json.loads((folder / "spent.json").read_text())
            monkeypatch.setattr(Classifier, "training_step", original)
            collect(plan)
            assert json.loads((folder / "manifest.json").read_text())["fit_seconds"] >= round(spent["elapsed"], 3)
        saved.append([(folder / name).read_bytes() for name in ("last.ckpt", "metrics.csv", "metrics.json")])
        assert not (folder / "spent.json").exists()
        shutil.rmtree(folder)
    assert saved[0] == saved[1] == saved[2]


def test_stopped_in_mid_epoch_sees_every_image_once(make_plan: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception at any step of the second epoch, and the resumed run serves exactly the rest of that epoch."""
    from modules.common.classifier import Classifier

    plan = only(make_plan("checkpoint_seconds=0"), ["init"])
    seen: list[torch.Tensor] = []
    original = Classifier.training_step
    stop = {"at": 11}

    def watched(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        if len(seen) == stop["at"]:
            raise RunError("stopped for the test")
        seen.append(batch[1].clone())
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", watched)
    broken, _ = collect(plan)
    assert (broken["init"].status, broken["init"].reason) == ("failed", "stopped for the test")
    stop["at"] = -1
    resumed, _ = collect(plan)
    labels, resumed_metrics = [t.tolist() for t in seen], resumed["init"].metrics
    assert len(seen) == 3 * 8  # 250 images in batches of 32, three epochs, nothing repeated
    seen.clear()
    for file in plan.stages["init"].directory.iterdir():
        file.unlink()
    unbroken, _ = collect(plan)
    assert [t.tolist() for t in seen] == labels
    assert unbroken["init"].metrics == resumed_metrics


def test_what_a_modules_own_hook_does_after_a_batch_is_saved_with_it(
    make_plan: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning calls that hook after those of callbacks: an average of the weights would miss a step on resuming."""
    from modules.common.classifier import Classifier

    plan = only(make_plan("checkpoint_seconds=0"), ["init"])
    original = Classifier.training_step
    steps: list[int] = []

    def watched(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        if len(steps) == 11:
            steps.append(-1)
            raise RunError("stopped for the test")
        steps.append(batch_idx)
        return original(self, batch, batch_idx)

    def follow(self: Classifier, *_: Any) -> None:
        with torch.no_grad():
            self.network.state_dict()["followed"] += 1

    def built(self: Classifier, *arguments: Any, **options: Any) -> None:
        construct(self, *arguments, **options)
        self.network.register_buffer("followed", torch.tensor(0))

    construct = Classifier.__init__
    monkeypatch.setattr(Classifier, "__init__", built)
    monkeypatch.setattr(Classifier, "training_step", watched)
    monkeypatch.setattr(Classifier, "on_train_batch_end", follow, raising=False)
    assert collect(plan)[0]["init"].status == "failed"
    assert collect(plan)[0]["init"].status == "done"
    saved = torch.load(plan.stages["init"].directory / "last.ckpt", weights_only=True)["state_dict"]
    assert int(saved["network.followed"]) == 3 * 8


def test_two_optimisers_count_batches_and_resume(make_plan: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's global step counts every optimiser's steps; schedules, seeds and resuming here count batches."""
    from modules.common.classifier import Classifier
    from modules.common.schedules import Position

    rates: list[list[float]] = []
    stop = {"at": 11}

    class Alternating(Classifier):
        automatic_optimization = False

        def configure_optimizers(self) -> Any:
            halves = list(self.parameters())[:2], list(self.parameters())[2:]
            return [
                self.prepared(torch.optim.Adam(half, lr=rate)) for half, rate in zip(halves, (0.01, 0.02), strict=True)
            ]

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if len(rates) == stop["at"]:
                raise RunError("stopped for the test")
            rates.append([o.param_groups[0]["lr"] for o in self.trainer.optimizers])
            for optimizer in self.optimizers():
                loss = super().training_step(batch, batch_idx) + 0 * torch.rand(())
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
            return {"loss": loss.detach()}

    def schedule(position: Position) -> float:
        return 1.0 - position.fraction

    def construct(plan: Plan, stage: Any) -> Alternating:
        training.seed_all("test", 0)
        network = training.build(stage.module["network"])
        return Alternating(network, 10, schedule=schedule)

    monkeypatch.setattr(training, "construct", construct)
    plan = only(make_plan("checkpoint_seconds=0"), ["init"])
    assert collect(plan)[0]["init"].reason == "stopped for the test"
    stop["at"] = -1
    resumed = collect(plan)[0]["init"].metrics
    steps = 3 * 8
    assert len(rates) == steps
    assert [r[0] for r in rates] == pytest.approx([0.01 * (1 - k / steps) for k in range(steps)])
    assert [r[1] for r in rates] == pytest.approx([0.02 * (1 - k / steps) for k in range(steps)])
    for file in plan.stages["init"].directory.iterdir():
        file.unlink()
    assert collect(plan)[0]["init"].metrics == resumed
