"""How a dry run tells the hours of tests and validations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from experiments.config.instantiate import build
from experiments.running import evaluating, training
from experiments.running.evaluating import EvaluationClock
from experiments.running.plan import Plan


def told(moments: list[float], sizes: list[int], limit: float = 100.0) -> float:
    """Seconds of an image, by a clock that shows these moments."""
    clock = EvaluationClock(limit, iter(moments).__next__)
    clock.on_test_batch_start()
    for size in sizes:
        clock.on_test_batch_end(None, None, None, (torch.zeros(size), None))  # type: ignore[arg-type]
    return clock.per_image


def test_later_batches_count_with_what_lies_between_them() -> None:
    assert told([0.0, 5.0], [10]) == 0.5
    assert told([0.0, 5.0, 6.0, 9.0], [10, 10, 5]) == pytest.approx(4 / 15)  # the first is slower, the last smaller
    assert EvaluationClock(1.0, lambda: 0.0).per_image == 0.0


def test_a_run_is_as_many_images_as_its_splits_have(
    make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,000 test images at a millisecond, and 40 epochs, looked at every fifth one on 100 at two."""
    stage = make_plan("paper=meal_v2", "scale=smoke").stages["teacher_a"]
    stage = replace(stage, trainer={**stage.trainer, "max_epochs": 40, "check_val_every_n_epoch": 5})
    module = training.construct_from(stage, {})
    data: Any = None
    sizes = {"test": 1000, "val": 100}
    paces = {"test": 0.001, "validate": 0.002}
    monkeypatch.setattr(evaluating, "_per_image", lambda stage, module, data, limit, split: paces[split])
    assert evaluating.seconds(stage, module, data, sizes, 1.0) == pytest.approx(1.0 + 8 * 0.2)
    assert evaluating.seconds(replace(stage, test=False), module, data, sizes, 1.0) == pytest.approx(1.6)
    assert evaluating.seconds(replace(stage, fit=False), module, data, sizes, 1.0) == pytest.approx(1.0)
    blind = replace(stage, trainer={**stage.trainer, "limit_val_batches": 0})
    assert evaluating.seconds(blind, module, data, sizes, 1.0) == pytest.approx(1.0)


def test_a_test_is_timed_without_what_comes_after_its_last_batch(make_plan: Callable[..., Plan]) -> None:
    stage = make_plan("paper=meal_v2", "scale=smoke").stages["teacher_a"]
    module = training.construct_from(stage, {})

    def refuse() -> None:
        raise AssertionError("the end of the test was reached")

    module.on_test_epoch_end = refuse  # type: ignore[method-assign]
    data = build(stage.data, "data")
    assert evaluating.seconds(stage, module, data, data.spec.sizes, 0.01) > 0
