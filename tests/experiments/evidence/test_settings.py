"""One question over several settings: hand-computed numbers, limit cases, and how often the interval is right."""

from __future__ import annotations

import math

import numpy as np
import pytest

from experiments.evidence import settings
from tests import example


def test_three_settings_by_hand() -> None:
    """Weights 4, 2, 1; Q = 52/7, its scale 7 - 21/7 = 4, so that the variance between settings is 19/14."""
    joint = settings.random_effects([1.0, 2.0, 4.0], [0.25, 0.5, 1.0])
    assert joint.spread**2 == pytest.approx(19 / 14)
    weights = [1 / (v + 19 / 14) for v in (0.25, 0.5, 1.0)]
    assert joint.mean == pytest.approx((weights[0] + 2 * weights[1] + 4 * weights[2]) / sum(weights))
    assert joint.mean == pytest.approx(2.14276, abs=1e-5)


def test_two_settings_have_a_wide_interval() -> None:
    """Means 0 and 4 with variances 1: Q = 8, variance between 7, standard error 2, and t(1) = 12.706 of those."""
    joint = settings.random_effects([0.0, 4.0], [1.0, 1.0])
    assert (joint.settings, joint.mean, joint.spread) == (2, 2.0, pytest.approx(math.sqrt(7)))
    assert joint.high - joint.mean == pytest.approx(2 * 12.7062, abs=1e-3)
    assert joint.mean - joint.low == pytest.approx(joint.high - joint.mean)


def test_settings_that_agree_have_no_spread_and_no_narrower_interval_than_their_seeds_give() -> None:
    joint = settings.random_effects([1.0, 1.0, 1.0], [0.03, 0.03, 0.03])
    assert (joint.mean, joint.spread) == (pytest.approx(1.0), 0.0)
    assert joint.high - 1.0 == pytest.approx(4.30265 * math.sqrt(0.01), abs=1e-4)  # t(2)


@pytest.mark.parametrize(("means", "variances"), [([1.0], [1.0]), ([1.0, 2.0], [1.0, 0.0])])
def test_one_setting_or_no_scatter_of_seeds_is_refused(means: list[float], variances: list[float]) -> None:
    with pytest.raises(ValueError, match="two settings or more"):
        settings.random_effects(means, variances)


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    """Five settings whose true differences scatter by 1 around 0.5, their means by 0.5 around those."""
    random = np.random.default_rng(0)
    true = 0.5 + random.normal(size=(1500, 5))
    seen = true + 0.5 * random.normal(size=true.shape)
    joint = [settings.random_effects(row.tolist(), [0.25] * 5) for row in seen]
    held = np.mean([each.low < 0.5 < each.high for each in joint])
    assert 0.93 < held < 0.99
    assert 0.8 < np.mean([each.spread for each in joint]) < 1.1


def test_only_settings_that_ask_the_same_and_could_answer_stand_together() -> None:
    first = example.claim("a beats b", "supported", [1.0, 2.0, 3.0], [0.0, 4.0])
    alike = example.claim("a beats b", "no gain", [-1.0, 0.0, 1.0], [-2.0, 2.0])
    others = [
        example.claim("a beats c", "supported", [9.0, 8.0, 7.0], [0.0, 9.0]),
        example.claim("a beats b", "untested", [9.0, 8.0, 7.0], [0.0, 9.0]),
        example.claim("a beats b", "supported", [9.0, 8.0, 7.0], [0.0, 9.0], unit="dB"),
        example.claim("a beats b", "holds", [9.0, 9.0, 9.0], [9.0, 9.0], kind="exact"),
    ]
    joint = settings.between([first, *others, alike])
    assert joint == settings.random_effects([2.0, 0.0], [1 / 3, 1 / 3])
    assert settings.between([first, *others]) is None
    assert settings.between([]) is None
