"""Verdicts against hand-computed intervals and an independent reference."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from experiments.claims import compare, estimate, judge
from experiments.plan import Claim, Published


def claim(**options: object) -> Claim:
    return Claim(name="c", better="a/test/top1", than="b/test/top1", **options)  # type: ignore[arg-type]


def table(a: list[float], b: list[float]) -> dict[str, dict[str, list[float]]]:
    return {"a": {"test/top1": a}, "b": {"test/top1": b}}


def test_interval_by_hand() -> None:
    """Values 1, 2, 3: mean 2, s = 1, standard error 1/sqrt(3), t(0.975, 2) = 4.302653."""
    found = estimate([1.0, 2.0, 3.0])
    assert found.mean == 2.0
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)


def test_paired_interval_is_scipys() -> None:
    a, b = [90.1, 91.3, 89.7, 92.0, 90.5], [89.0, 91.5, 88.8, 90.9, 89.9]
    low, high = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert judge(claim(), table(a, b), 5)["interval"] == pytest.approx([low, high])


@pytest.mark.parametrize(
    ("differences", "options", "verdict"),
    [
        ([1.0, 1.1, 0.9, 1.0], {}, "supported"),
        ([-1.0, -1.1, -0.9, -1.0], {}, "refuted"),
        ([1.0, -1.1, 0.9, -1.0], {}, "inconclusive"),
        ([1.0, 1.1, 0.9, 1.0], {"margin": 2.0}, "refuted"),
        ([-0.1, 0.1, 0.0, 0.05], {"margin": -0.5}, "supported"),
        ([-1.0, -1.1, -0.9, -1.0], {"lower_is_better": True}, "supported"),
        ([-0.1, 0.1, 0.0, 0.05], {"within": 0.5}, "supported"),
        ([1.0, 1.1, 0.9, 1.0], {"within": 0.5}, "refuted"),
        ([0.4, 0.6, 0.5, 0.45], {"within": 0.5}, "inconclusive"),
        ([0.0, 0.0, 0.0, 0.0], {}, "inconclusive"),
    ],
)
def test_verdicts(differences: list[float], options: dict[str, object], verdict: str) -> None:
    found = judge(claim(**options), table([50 + d for d in differences], [50.0] * 4), 4)
    assert found["verdict"] == verdict
    sign = -1 if options.get("lower_is_better") else 1
    assert found["per_seed"] == pytest.approx([sign * d for d in differences])


def test_no_verdict_from_half_the_seeds() -> None:
    assert judge(claim(), table([1.0, 2.0], [0.0, 1.0]), 3)["verdict"] == "not run"
    assert judge(claim(), {"a": {"test/top1": [1.0, 2.0]}}, 2)["reason"] == "b did not finish for every seed"
    assert judge(claim(), table([1.0, math.nan], [0.0, 1.0]), 2)["verdict"] == "not run"
    assert (
        "it reports test/top1"
        in judge(Claim(name="c", better="a/test/top2", than="b/test/top1"), table([1.0], [0.0]), 1)["reason"]
    )


def test_one_seed_has_no_interval() -> None:
    found = judge(claim(), table([2.0], [1.0]), 1)
    assert (found["verdict"], found["interval"]) == ("inconclusive", None)


def test_a_number_can_stand_on_the_other_side() -> None:
    found = judge(Claim(name="c", better="a/test/top1", than=10.0), {"a": {"test/top1": [50.0, 51.0]}}, 2)
    assert (found["verdict"], found["difference"]) == ("supported", 40.5)


@pytest.mark.parametrize(
    ("ours", "scale", "verdict"),
    [
        ([80.5, 80.6, 80.7], "full", "matched"),
        ([79.6, 79.7, 79.65], "full", "partial"),
        ([70.0, 70.1, 70.2], "full", "failed"),
        ([80.6], "full", "matched"),
        ([80.6, 80.7, 80.8], "mini", "not run"),
    ],
)
def test_published_numbers_are_judged_at_full_scale_only(ours: list[float], scale: str, verdict: str) -> None:
    item = Published("a", "test/top1", 80.67, "ImageNet", "one crop", "Table 1")
    found = compare(item, {"a": {"test/top1": ours}}, len(ours), scale)
    assert found["verdict"] == verdict
    assert found["ours"] == pytest.approx(sum(ours) / len(ours))
