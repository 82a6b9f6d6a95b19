"""Checkpoints and records that are damaged, of another stage, or a trap: none is built on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from experiments.running import training
from experiments.running.plan import only
from tests.experiments.running.helpers import Make, collect


def test_a_damaged_checkpoint_of_an_open_stage_is_set_aside(make_plan: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = only(make_plan(), ["init"])
    reference, _ = collect(plan)
    folder = plan.stages["init"].directory
    (folder / "manifest.json").unlink()
    (folder / "last.ckpt").write_bytes(b"garbage")
    outcome, events = collect(plan)
    assert outcome["init"].metrics == reference["init"].metrics
    assert (folder / "last.ckpt.damaged").read_bytes() == b"garbage"
    assert any("damaged" in e.get("text", "") for e in events)


def test_a_damaged_checkpoint_of_a_finished_stage_is_made_again(make_plan: Make) -> None:
    plan = only(make_plan(), ["teacher_a", "teacher_b", "ensemble"])
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
    plan, another = make_plan(), only(make_plan(seed=1), ["teacher_a"])
    plan = only(plan, ["teacher_a", "teacher_b", "ensemble"])
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
    plan, other = (only(make_plan(seed=seed), ["init", "teacher_a", "teacher_b", "ensemble"]) for seed in (0, 1))
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

    plan = only(make_plan(), ["init"])
    plan.stages["init"].directory.mkdir(parents=True)
    (plan.stages["init"].directory / "last.ckpt").write_bytes(pickle.dumps({"state_dict": Payload()}))
    outcome, _ = collect(plan)
    assert outcome["init"].status == "done"
    assert not (tmp_path / "owned").exists()


def test_a_damaged_record_of_a_stage_is_named_before_it_runs_again(make_plan: Make) -> None:
    plan = only(make_plan(), ["init"])
    collect(plan)
    path = plan.stages["init"].directory / "manifest.json"
    path.write_text("[" * 100_000)
    _, events = collect(plan)
    assert [e["text"] for e in events if e["event"] == "warning"] == [f"{path} is damaged; the stage runs again"]
