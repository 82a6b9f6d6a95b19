"""How a dry run tells the hours of a training."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.common.base import DataModule
from experiments.common.errors import RunError
from experiments.config.instantiate import build
from experiments.config.recipes import merge
from experiments.running import measured, pace, training
from experiments.running.measured import Hours
from experiments.running.pace import Pace, _expected, _larger
from experiments.running.plan import Plan

STEADY = Pace(50, 0.2, 0.1, False, 1, 1, "a device", True, False)


def test_hours_follow_from_steps_and_their_batches() -> None:
    """0.3 s for 50 images; 12,000 steps of 100 images are twice as long each: 2 hours."""
    assert STEADY.hours(100, 12_000) == pytest.approx(2.0)
    assert replace(STEADY, beside=True).hours(50, 18_000) == pytest.approx(1.0)  # workers hide 0.1 of 0.2 s
    assert replace(STEADY, beside=True, load=0.4).hours(50, 9_000) == pytest.approx(1.0)  # or hold a step up


def test_memory_at_another_batch_lies_on_a_line() -> None:
    assert _expected([(4, 500), (36, 820)], 100) == 820 + 64 * 10
    assert _expected([(4, 500), (36, 820)], 36) == 820
    assert _expected([(4, 500)], 8) == 1000, "one point alone: as if all of it were the batch's"


def test_a_larger_batch_is_tried_while_a_step_stays_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "free_memory", lambda: 10_000)
    assert _larger(4, 512, step=0.01, seconds=3, told=[(4, 500)]) == 32
    assert _larger(32, 512, step=1.0, seconds=3, told=[(4, 500), (32, 780)]) == 96
    assert _larger(96, 512, step=3.5, seconds=3, told=[(4, 500), (96, 780)]) == 96
    assert _larger(32, 100, step=0.01, seconds=3, told=[(4, 500), (32, 780)]) == 100, "never beyond the published"
    assert _larger(32, 512, step=0.01, seconds=3, told=[(4, 500), (32, 3300)]) == 32, "memory"


def work(seconds: float) -> None:
    """Of the processor: sleep would not count."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_a_block_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(RunError, match="given up after 0 s"), pace.within(0.05), contextlib.suppress(OSError):
        time.sleep(5)  # as in a reader of pictures, which takes an OSError for damage
    with pace.within(0.05):
        pass
    time.sleep(0.1)  # the limit ended with its block


def test_a_stage_is_timed_at_its_own_batch_and_is_as_before(make_plan: Callable[..., Plan]) -> None:
    """The timed steps also count, so that a step is known to take as long."""
    stage = make_plan("paper=meal_v2", "scale=smoke").stages["teacher_a"]
    module = training.construct_from(stage, {})
    before = {name: value.clone() for name, value in module.state_dict().items()}
    batches: list[int] = []
    step: Any = module.training_step

    def slow_step(batch: Any, batch_idx: int) -> Any:
        batches.append(len(batch.x))
        work(0.02)
        return step(batch, batch_idx)

    def data_at(batch: int) -> DataModule:
        data: DataModule = build(merge(stage.data, {"batch_size": batch}), "data")
        return data

    module.training_step = slow_step  # type: ignore[method-assign]
    told = pace.measure(stage, module, data_at, seconds=0.3, smallest=4, real=True, shortened=False)
    assert told.batch == stage.data["batch_size"] == max(batches)
    assert batches[0] == 4
    assert told.step >= 0.02
    assert told.load > 0
    assert told.memory == told.memory_published > 0
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_what_was_measured_is_kept_by_setting_and_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "FILE", tmp_path / "measured.json")
    assert measured.in_words("toy full") == ""
    measured.write("toy full", "a CPU", {"a": Hours(5.4, 250, 250, False), "b": Hours(1.0, 250, 250, False)})
    measured.write("toy full", "a GPU", {"a": Hours(0.25, 32, 512, True)})
    told = measured.in_words("toy full")
    assert told == "6.4 h on a CPU; at least 0.25 h on a GPU, timed at batches of 32"
    assert measured.in_words("toy full+large") == ""

    measured.FILE.write_text('{"toy full": {"a CPU": {"stages": {"a": {"hours": 1}}}}}')
    assert measured.read("toy full") == {}
