"""Arithmetic over metrics: values, precedence, patterns, and what a wrong text says."""

from __future__ import annotations

import pytest

from experiments.common.errors import InputError
from experiments.config import expressions
from experiments.config.expressions import Missing

TABLE = {
    "a": {"test/top1": {0: 90.0, 1: 92.0}, "test/growth_0.1": {0: 2.0, 1: 4.0}},
    "b": {"test/top1": {0: 80.0, 1: 84.0}},
    "arm_1": {"test/top1": {0: 1.0}},
    "arm_2": {"test/top1": {0: 3.0}},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a/test/top1", 90.0),
        (7, 7.0),
        ("a/test/top1 - b/test/top1", 10.0),
        ("a/test/top1 - b/test/top1 - 1", 9.0),
        ("2 * a/test/top1 + b/test/top1 / 4", 200.0),
        ("2 * (a/test/top1 + b/test/top1) / 4", 85.0),
        ("-(b/test/top1) + 1e2", 20.0),
        ("mean(arm_*/test/top1)", 2.0),
        ("max(arm_*/test/top1, b/test/top1)", 80.0),
        ("min(arm_?/test/top1)", 1.0),
        ("a/test/growth_0.1", 2.0),
    ],
)
def test_values(text: str | float, value: float) -> None:
    assert expressions.evaluate(expressions.parse(text, "claim"), TABLE, 0) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a/test", "expected <stage>/<split>/<metric>"),
        ("a/test/top1 -", "ends too early"),
        ("a/test/top1 b/test/top1", "not expected there"),
        ("median(a/test/top1)", "'median' does not exist; did you mean 'mean'?"),
        ("(a/test/top1", "ends too early"),
        ("__import__('os')", "cannot read"),
        ("a/test/top1 ** 2", "not expected there"),
        (True, "expected a number or arithmetic"),
    ],
)
def test_what_cannot_be_read_is_named(text: object, said: str) -> None:
    with pytest.raises(InputError, match=r"^claims\.3") as caught:
        expressions.parse(text, "claims.3")  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_stages_are_checked_before_anything_runs() -> None:
    parsed = expressions.parse("mean(arm_*/test/top1) - a/test/top1", "claim")
    assert expressions.check(parsed, TABLE, "claim") == ["arm_1", "arm_2", "a"]
    with pytest.raises(InputError, match="stage 'amr_1' does not exist; did you mean 'arm_1'"):
        expressions.check(expressions.parse("amr_1/test/top1", "claim"), TABLE, "claim")
    with pytest.raises(InputError, match="a pattern stands in mean"):
        expressions.check(expressions.parse("arm_*/test/top1", "claim"), TABLE, "claim")


@pytest.mark.parametrize(
    ("text", "seed", "said"),
    [
        ("c/test/top1", 0, "c did not finish"),
        ("a/test/top2", 0, "it reports test/top1"),
        ("arm_1/test/top1", 1, "did not finish for seed 1"),
        ("1 / (a/test/top1 - a/test/top1)", 0, "a division by 0"),
    ],
)
def test_what_is_missing_is_said(text: str, seed: int, said: str) -> None:
    with pytest.raises(Missing, match=said):
        expressions.evaluate(expressions.parse(text, "claim"), TABLE, seed)


def test_a_mean_over_arms_waits_for_all_of_them() -> None:
    """Without the third, it would be the mean of two."""
    mean = expressions.parse("mean(arm_*/test/top1)", "claim")
    expressions.evaluate(mean, TABLE, 0)
    with pytest.raises(Missing, match="arm_3 did not finish"):
        expressions.evaluate(mean, {**TABLE, "arm_3": {}}, 0)


def test_comparisons() -> None:
    left, sign, right = expressions.comparison("a/test/top1 - b/test/top1 >= 10", "requires")
    assert expressions.COMPARE[sign](*(expressions.evaluate(side, TABLE, 0) for side in (left, right)))
    with pytest.raises(InputError, match="expected one comparison"):
        expressions.comparison("a/test/top1", "requires")


def test_arithmetic_over_single_images() -> None:
    import numpy as np

    arrays = {"a": np.array([1.0, 0.0, 1.0]), "b": np.array([0.0, 0.0, 1.0])}
    parsed = expressions.parse("100 * (a/test/top1 - b/test/top1)", "claim")
    assert expressions.over_images(parsed, lambda metric: arrays[metric.stage]).tolist() == [100.0, 0.0, 0.0]
    with pytest.raises(Missing, match="has no meaning for single images"):
        expressions.over_images(expressions.parse("max(a/test/top1, b/test/top1)", "claim"), lambda m: arrays[m.stage])
