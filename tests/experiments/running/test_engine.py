"""Stages run once, fail alone, and leave nothing half-written."""

from __future__ import annotations

import errno
import itertools
import json
import math
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.common import files
from experiments.common.tables import read_rows
from experiments.running import callbacks, engine, hits, manifest, training
from experiments.running.plan import Plan, only
from tests.experiments.running.helpers import Make, collect


def test_a_stage_is_run_once_and_leaves_its_record(make_plan: Make) -> None:
    plan = only(make_plan(), ["init"])
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
    plans = [only(make_plan("variant=noise", batches, short, seed=seed), ["untrained", "teacher_a"]) for seed in (0, 1)]
    for plan in plans:
        collect(plan)
    pairs = [[hits.read(stage.directory) for stage in plan.stages.values()] for plan in plans]
    marks = [{answers.images for answers in pair if answers is not None} for pair in pairs]
    assert [len(pair) for pair in marks] == [1, 1]
    assert marks[0] != marks[1]


def test_checkpoints_hold_what_was_trained_and_load_safely(make_plan: Make) -> None:
    plan = only(make_plan(), ["teacher_a", "teacher_b", "init", "student"])
    collect(plan)
    state = torch.load(plan.stages["student"].directory / "last.ckpt", weights_only=True)["state_dict"]
    assert {name.split(".")[0] for name in state} == {"network", "discriminator"}
    assert sum(v.numel() for n, v in state.items() if "running" not in n and "num_batches" not in n) == 29162 + 242


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
    plan = only(make_plan(), ["init"])
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
    outcomes, _ = collect(only(make_plan(*lines), ["init", "untrained"]))
    failed = outcomes["init"]
    assert failed.reason.startswith(f"{damaged} cannot be decoded (")
    assert "\n" not in failed.reason
    assert failed.exit_code == 2
    assert outcomes["untrained"].status == "done"


def test_the_test_set_is_counted(make_plan: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from datamodules.common.torchvision_sets import FashionMNIST

    monkeypatch.setattr(FashionMNIST, "test_dataloader", FashionMNIST.val_dataloader)
    outcomes, _ = collect(only(make_plan(), ["untrained"]))
    assert outcomes["untrained"].reason == "untrained: tested on 100 images, but the test set has 200"


def test_the_learning_rate_belongs_to_the_reference_batch(make_plan: Make) -> None:
    plan = only(make_plan("+stages.init.reference_batch=64"), ["init"])
    collect(plan)
    manifest = files.read_json(plan.stages["init"].directory / "manifest.json")
    assert manifest is not None
    assert manifest["learning_rates"] == [pytest.approx(0.05 * 32 / 64)]


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
    plan = only(make_plan("+stages.init.trainer.max_steps=20"), ["init"])
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
