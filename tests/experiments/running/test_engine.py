"""Stages run once, resume bit for bit, fail alone, and leave nothing half-written."""

from __future__ import annotations

import errno
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.common import files
from experiments.common.errors import RunError
from experiments.common.paths import ROOT
from experiments.common.tables import read_rows
from experiments.running import callbacks, engine, hits, manifest, training
from experiments.running.engine import Outcome
from experiments.running.plan import Plan

Make = Callable[..., Plan]


def only(plan: Plan, *names: str) -> Plan:
    """The same plan with these stages alone; their predecessors must be among them."""
    return Plan(plan.paper, plan.scale, plan.variant, plan.seed, {n: plan.stages[n] for n in names}, plan.config)


def collect(plan: Plan) -> tuple[dict[str, Outcome], list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    return engine.run(plan, events.append), events


def test_a_stage_is_run_once_and_leaves_its_record(make_plan: Make) -> None:
    plan = only(make_plan(), "init")
    first, _ = collect(plan)
    again, events = collect(plan)
    assert (first["init"].status, first["init"].cached) == ("done", False)
    assert again["init"].cached
    assert again["init"].metrics == first["init"].metrics
    assert not [e for e in events if e["event"] == "start"]
    folder = plan.stages["init"].directory
    assert {f.name for f in folder.iterdir()} == {
        "config.yaml",
        "metrics.json",
        "metrics.csv",
        "last.ckpt",
        "manifest.json",
        "hits.npz",
    }
    answers = hits.read(folder)
    assert answers is not None
    assert len(answers.right) == 200
    assert 100 * answers.right.mean() == pytest.approx(first["init"].metrics["test/top1"], abs=1e-4)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["data"] == {
        "name": "Fashion-MNIST (12,000 + 2,000)",
        "source": "real",
        "identity": manifest["data"]["identity"],
        "split": "subset of the official test set; val drawn from the training part by the seed",
        "sizes": {"train": 250, "val": 100, "test": 200},
    }
    assert manifest["batch"] == {"global": 32, "devices": 1, "reference": None}
    assert len(manifest["learning_rates"]) == 1
    assert manifest["cpu_seconds"] > 0
    assert len(read_rows(folder / "metrics.csv")) == 3
    assert first["init"].metrics["test/n"] == 200


def test_stages_of_one_seed_answer_the_same_images_and_another_seed_s_are_others(make_plan: Make) -> None:
    """Digits are cut by the seed: a pair of arms is tested on the same in any batches, another seed on others."""
    batches = "stages.teacher_a.data.batch_size=48"
    short = "stages.teacher_a.trainer={max_epochs:1,check_val_every_n_epoch:1}"
    plans = [only(make_plan("variant=noise", batches, short, seed=seed), "untrained", "teacher_a") for seed in (0, 1)]
    for plan in plans:
        collect(plan)
    kept = [[hits.read(stage.directory) for stage in plan.stages.values()] for plan in plans]
    marks = [{answers.images for answers in pair if answers is not None} for pair in kept]
    assert [len(pair) for pair in marks] == [1, 1]
    assert marks[0] != marks[1]


def test_checkpoints_hold_what_was_trained_and_load_safely(make_plan: Make) -> None:
    plan = only(make_plan(), "teacher_a", "teacher_b", "init", "student")
    collect(plan)
    state = torch.load(plan.stages["student"].directory / "last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in state} == {"network", "discriminator"}
    assert sum(v.numel() for n, v in state.items() if "running" not in n and "num_batches" not in n) == 29162 + 242


RESUME = ["scale=smoke", "stages.student.trainer.max_epochs=12", "checkpoint_seconds=0", "objective=student/test/top1"]
RESUME += [f"~stages.{name}" for name in ("continued", "soft", "one_teacher", "student_untrained")]
RESUME += ["stages.student.data.train_size=250", "~stages.continued_wd", "~stages.student_wd", "~claims", "~published"]


@pytest.mark.slow
def test_killed_and_restarted_ends_bit_identical(tmp_path: Path) -> None:
    """SIGKILL in the middle of the student's training, then the same command again."""
    weights, metrics, rows = [], [], []
    for name in ("unbroken", "killed"):
        command = [sys.executable, "-m", "experiments.run", "seed=0", *RESUME, f"runs_dir={tmp_path / name}"]
        if name == "killed":
            process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
        subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
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
    plan = only(make_plan("checkpoint_seconds=0", validated_late), "init")
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

    plan = only(make_plan("checkpoint_seconds=0"), "init")
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


def test_a_damaged_checkpoint_of_an_open_stage_is_set_aside(make_plan: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = only(make_plan(), "init")
    reference, _ = collect(plan)
    folder = plan.stages["init"].directory
    (folder / "manifest.json").unlink()
    (folder / "last.ckpt").write_bytes(b"garbage")
    outcome, events = collect(plan)
    assert outcome["init"].metrics == reference["init"].metrics
    assert (folder / "last.ckpt.damaged").read_bytes() == b"garbage"
    assert any("damaged" in e.get("text", "") for e in events)


def test_a_damaged_checkpoint_of_a_finished_stage_is_made_again(make_plan: Make) -> None:
    plan = only(make_plan(), "teacher_a", "teacher_b", "ensemble")
    reference, _ = collect(plan)
    teacher = plan.stages["teacher_a"].directory
    size = (teacher / "last.ckpt").stat().st_size
    with (teacher / "last.ckpt").open("r+b") as file:
        file.truncate(size // 2)
    (plan.stages["ensemble"].directory / "manifest.json").unlink()
    outcome, events = collect(plan)
    assert outcome["ensemble"].metrics == reference["ensemble"].metrics
    assert [e["stage"] for e in events if e["event"] == "start"] == ["ensemble", "teacher_a", "ensemble"]


def test_a_checkpoint_replaced_while_the_stage_was_tested_is_noticed(
    make_plan: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a machine that sees no lock of this one: the record holds the checksum of what was trained here."""
    plan, another = make_plan(), only(make_plan(seed=1), "teacher_a")
    plan = only(plan, "teacher_a", "teacher_b", "ensemble")
    reference, _ = collect(plan)
    collect(another)
    victim, other = (each.stages["teacher_a"].directory for each in (plan, another))
    for name in ("teacher_a", "ensemble"):
        shutil.rmtree(plan.stages[name].directory)
    test, replaced = training._test, []

    def test_late(trainer: Any, *more: Any) -> dict[str, float]:
        if Path(trainer.default_root_dir) == victim and not replaced:
            replaced.append(shutil.copy(other / "last.ckpt", victim))
        return test(trainer, *more)

    monkeypatch.setattr(training, "_test", test_late)
    outcome, events = collect(plan)
    assert {name: item.metrics for name, item in outcome.items()} == {n: r.metrics for n, r in reference.items()}
    warned = [event["text"] for event in events if event["event"] == "warning"]
    assert any("teacher_a" in text and "another's" in text for text in warned)


def test_the_checkpoint_of_another_seed_is_refused(make_plan: Make) -> None:
    """Sound in itself: by its checksum where the stage has finished, by the fingerprint in it where it goes on."""
    plan, other = (only(make_plan(seed=seed), "init", "teacher_a", "teacher_b", "ensemble") for seed in (0, 1))
    reference, _ = collect(plan)
    collect(other)
    for name in ("teacher_a", "init"):
        shutil.copy(other.stages[name].directory / "last.ckpt", plan.stages[name].directory)
    for name in ("ensemble", "init"):
        (plan.stages[name].directory / "manifest.json").unlink()
    outcome, events = collect(plan)
    assert {name: item.metrics for name, item in outcome.items()} == {n: r.metrics for n, r in reference.items()}
    warned = [event["text"] for event in events if event["event"] == "warning"]
    assert any("teacher_a" in text and "another's" in text for text in warned)
    assert any("init" in text and "of another stage or seed; set aside" in text for text in warned)


def test_a_pickle_in_place_of_a_checkpoint_is_not_run(make_plan: Make, tmp_path: Path) -> None:
    import pickle

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "owned"),)

    plan = only(make_plan(), "init")
    plan.stages["init"].directory.mkdir(parents=True)
    (plan.stages["init"].directory / "last.ckpt").write_bytes(pickle.dumps({"state_dict": Payload()}))
    outcome, _ = collect(plan)
    assert outcome["init"].status == "done"
    assert not (tmp_path / "owned").exists()


def test_a_failing_stage_takes_only_its_dependants_with_it(make_plan: Make) -> None:
    plan = make_plan("stages.teacher_b.module.optimizer.lr=1e9", "stages.teacher_b.data.train_size=640")
    outcomes, _ = collect(plan)
    failed = outcomes["teacher_b"]
    assert failed.status == "failed"
    assert "its learning rate is 1e+09" in failed.reason
    assert "\n" not in failed.reason
    assert {n for n, o in outcomes.items() if o.status == "skipped"} == {
        "ensemble",
        "student",
        "soft",
        "student_wd",
        "student_untrained",
    }
    assert outcomes["student"].reason == "needs teacher_b"
    assert outcomes["one_teacher"].status == outcomes["continued"].status == "done"
    assert engine.exit_code(outcomes) == 1
    assert "RunError" in (plan.stages["teacher_b"].directory / "failure.txt").read_text()
    assert not (plan.stages["teacher_b"].directory / "metrics.json").exists()


@pytest.mark.parametrize("name", ["last.ckpt", "metrics.csv", "metrics.json", "manifest.json", "config.yaml"])
def test_a_full_disk_at_any_file_is_one_line_and_leaves_nothing_half_written(
    make_plan: Make, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    plan = only(make_plan(), "init")
    real = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    outcomes, _ = collect(plan)
    assert outcomes["init"].status == "failed"
    assert outcomes["init"].reason.startswith("the disk is full")
    assert outcomes["init"].exit_code == 1
    folder = plan.stages["init"].directory
    assert not (folder / name).exists()
    assert not list(folder.glob(".*.part"))
    monkeypatch.setattr(os, "replace", real)
    assert collect(plan)[0]["init"].status == "done"


def _ask(plan: Plan, number: int, folder: Path) -> None:
    """One of two processes: whether the stage was there when its turn came."""
    cached = engine.ensure(plan, plan.stages["init"]).cached
    (folder / f"cached.{number}").write_text(str(cached))


def test_two_processes_share_a_stage(make_plan: Make, tmp_path: Path) -> None:
    """Both ask for the same stage at once; one trains, the other waits and takes the result."""
    plan = make_plan("stages.init.trainer.max_epochs=20")
    context = multiprocessing.get_context("fork")
    running = [context.Process(target=_ask, args=(plan, number, tmp_path)) for number in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join(120)
    assert sorted(path.read_text() for path in tmp_path.glob("cached.*")) == ["False", "True"]


def test_a_truncated_photo_met_by_a_worker_is_one_line(make_plan: Make, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    for split in ("train", "val"):
        for label in range(10):
            (tmp_path / "photos" / split / str(label)).mkdir(parents=True)
            Image.fromarray(np.full((9, 9, 3), 20 * label, np.uint8)).save(tmp_path / f"photos/{split}/{label}/0.jpg")
    damaged = tmp_path / "photos" / "train" / "3" / "0.jpg"
    damaged.write_bytes(damaged.read_bytes()[:-80])
    data = ["root=" + str(tmp_path / "photos"), "image_size=8", "batch_size=5", "num_workers=1"]
    lines = [f"~stages.init.data.{key}" for key in ("train_size", "val_size", "test_size", "augment")]
    lines += ["data@stages.init.data=image_folder"]
    lines += [f"stages.init.data.{line}" for line in data] + ["stages.init.module.network.in_channels=3"]
    outcomes, _ = collect(only(make_plan(*lines), "init", "untrained"))
    failed = outcomes["init"]
    assert failed.reason.startswith(f"{damaged} cannot be decoded (")
    assert "\n" not in failed.reason
    assert failed.exit_code == 2
    assert outcomes["untrained"].status == "done"


def test_what_a_modules_own_hook_does_after_a_batch_is_saved_with_it(
    make_plan: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning calls that hook after those of callbacks: an average of the weights would miss a step on resuming."""
    from modules.common.classifier import Classifier

    plan = only(make_plan("checkpoint_seconds=0"), "init")
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
    plan = only(make_plan("checkpoint_seconds=0"), "init")
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


def test_the_test_set_is_counted(make_plan: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from datamodules.common.torchvision_sets import FashionMNIST

    monkeypatch.setattr(FashionMNIST, "test_dataloader", FashionMNIST.val_dataloader)
    outcomes, _ = collect(only(make_plan(), "untrained"))
    assert outcomes["untrained"].reason == "untrained: tested on 100 images, but the test set has 200"


def test_the_learning_rate_belongs_to_the_reference_batch(make_plan: Make) -> None:
    plan = only(make_plan("+stages.init.reference_batch=64"), "init")
    collect(plan)
    manifest = files.read_json(plan.stages["init"].directory / "manifest.json")
    assert manifest is not None
    assert manifest["learning_rates"] == [pytest.approx(0.05 * 32 / 64)]


def test_a_damaged_record_of_a_stage_is_named_before_it_runs_again(make_plan: Make) -> None:
    plan = only(make_plan(), "init")
    collect(plan)
    path = plan.stages["init"].directory / "manifest.json"
    path.write_text("[" * 100_000)
    _, events = collect(plan)
    assert [e["text"] for e in events if e["event"] == "warning"] == [f"{path} is damaged; the stage runs again"]


def test_plans_travel_as_json(make_plan: Make) -> None:
    plan = make_plan()
    copy, stage = manifest.from_json(manifest.to_json(plan, plan.stages["student"]))
    assert copy == plan
    assert stage == plan.stages["student"]


def test_construction_depends_on_seed_and_stage_alone(make_plan: Make) -> None:
    draws = itertools.count(1)

    def weights(seed: int, name: str, *lines: str) -> torch.Tensor:
        torch.rand(next(draws))  # what was drawn before
        plan = make_plan(*lines, seed=seed)
        return next(training.construct(plan, plan.stages[name]).parameters()).detach().flatten()

    assert torch.equal(weights(0, "init"), weights(0, "init"))
    assert not torch.equal(weights(0, "init"), weights(1, "init"))
    assert not torch.equal(weights(0, "init"), weights(0, "untrained"))
    alike = "+stages.untrained.start_like=init"
    assert torch.equal(weights(0, "init"), weights(0, "untrained", alike))


def test_measuring_exclusively_is_no_part_of_the_fingerprint(make_plan: Make) -> None:
    plain, measuring = make_plan(), make_plan("+stages.init.exclusive=true")
    assert measuring.stages["init"].exclusive
    assert measuring.stages["init"].fingerprint == plain.stages["init"].fingerprint


def test_training_can_be_counted_in_steps(make_plan: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 batches of an epoch of 13: one epoch and seven batches, on a schedule that ends with them."""
    from modules.common.classifier import Classifier

    rates: list[float] = []
    original = Classifier.training_step

    def watched(self: Classifier, batch: Any, batch_idx: int) -> torch.Tensor:
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return original(self, batch, batch_idx)

    monkeypatch.setattr(Classifier, "training_step", watched)
    plan = only(make_plan("+stages.init.trainer.max_steps=20"), "init")
    outcomes, _ = collect(plan)
    assert outcomes["init"].status == "done", outcomes["init"].reason
    assert len(rates) == 20
    assert rates == pytest.approx([0.05 * 0.5 * (1 + math.cos(math.pi * i / 20)) for i in range(20)])
    assert torch.load(plan.stages["init"].directory / "last.ckpt", weights_only=True)["global_step"] == 20


def test_a_callback_is_asked_only_for_the_hooks_that_it_has() -> None:
    """Lightning passes over a hook that is None; one that a callback has must stay."""
    assert {hook for hook in callbacks.STEP_HOOKS if callable(getattr(callbacks.StepSeed, hook))} == {
        "on_train_batch_start"
    }
    for kind in (callbacks.Recorder, callbacks.CheckData):
        assert not any(callable(getattr(kind, hook)) for hook in callbacks.STEP_HOOKS)
    assert callable(callbacks.CheckData.setup)
