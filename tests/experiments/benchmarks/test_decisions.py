"""The simulated procedure decides as the real one does, and wrongly as seldom as its page says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks import decisions
from experiments.common.paths import ROOT
from experiments.evidence import sequences


def test_a_row_is_decided_as_the_sequence_decides_it() -> None:
    rows = np.random.default_rng(1).normal(0.6, 1.0, (40, 32))
    for row, verdict in zip(rows, decisions.decide(rows, 0.5), strict=True):
        expected = 0
        for count in range(6, 33):
            estimate = sequences.normal(list(row[:count]))
            expected = 1 if estimate.low > 0 else -1 if estimate.high < 0.5 else 0
            if expected:
                break
        assert verdict == expected


def test_nothing_is_decided_before_the_first_look() -> None:
    rows = np.tile([5.0, 5.1], (1, 16))
    assert decisions.decide(rows[:, :5], 0.5).tolist() == [0]
    assert decisions.decide(rows, 0.5).tolist() == [1]


@pytest.mark.parametrize("noise", decisions.NOISES)
def test_noises_have_no_mean_and_a_deviation_of_one(noise: str) -> None:
    values = decisions.NOISES[noise](np.random.default_rng(0), (2000, 200))
    assert abs(values.mean()) < 0.01
    assert values.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("noise", decisions.NOISES)
@pytest.mark.parametrize("recipes", [0.0, 1.0])
def test_replicated_support_is_wrong_in_less_than_five_percent(noise: str, recipes: float) -> None:
    shares = decisions.simulate(decisions.Scenario(noise, recipes, 0.0, 1.0), runs=2000)
    assert shares["replicated"] < 0.05


def test_the_page_is_in_the_repository() -> None:
    assert (Path(ROOT) / "docs" / "decisions.md").read_text(encoding="utf-8").startswith("# How often")
