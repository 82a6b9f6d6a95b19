"""Intervals by hand, by independent formulas, and their coverage at the moment of stopping."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad

from experiments.evidence import sequences
from experiments.evidence.sequences import Estimate


@pytest.mark.parametrize(("n", "multiple"), [(6, 4.73), (8, 4.20), (12, 3.84), (16, 3.70), (24, 3.60), (32, 3.56)])
def test_multiples_of_the_design(n: int, multiple: float) -> None:
    assert sequences.t_multiple(n) == pytest.approx(multiple, abs=0.005)


def test_the_first_seeds_have_no_interval() -> None:
    assert [math.isinf(sequences.t_multiple(n)) for n in (1, 2, 3, 4)] == [True, True, True, False]


def test_normal_interval_by_hand() -> None:
    """Of 1, 2, 3, 4: mean 2.5, s^2 = 5/3, n = 4, so 1 + ng = 17."""
    values = [1.0, 2.0, 3.0, 4.0]
    c = (17 / 0.0025) ** 0.25  # 9.0807
    half = math.sqrt(5 / 3) / 2 * math.sqrt(3 * (c - 1) / (1 - c / 17))
    interval = sequences.normal(values)
    assert (interval.mean, interval.low) == pytest.approx((2.5, 2.5 - half))


def test_evidence_is_the_mixture_of_likelihood_ratios() -> None:
    """The e-value is the ratio of marginal likelihoods of scale-free t statistics, integrated numerically.

    With effect size delta ~ N(0, g), the t statistic is noncentral t; the ratio of its mixed to its central density is
    the e-value (Wang & Ramdas 2024, Sec. 4).
    """
    values, limit, g = [0.5, 1.2, -0.3, 0.9, 0.4, 1.1, 0.2], 0.1, sequences.G
    n = len(values)
    t = (np.mean(values) - limit) / (np.std(values, ddof=1) / math.sqrt(n))

    def mixed(delta: float) -> float:
        return float(stats.nct.pdf(t, n - 1, delta * math.sqrt(n)) * stats.norm.pdf(delta, 0, math.sqrt(g)))

    ratio = quad(mixed, -8, 8)[0] / stats.t.pdf(t, n - 1)
    assert sequences.normal_evidence(values, limit) == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize("end", ["low", "high"])
def test_the_interval_ends_where_the_evidence_reaches_twenty(end: str) -> None:
    values = [1.0, 1.2, 0.8, 1.1, 0.9, 1.05]
    assert sequences.normal_evidence(values, getattr(sequences.normal(values), end)) == pytest.approx(20)
    outcomes = [1, 1, 0, 1, 1, 1, 1, 0]
    assert sequences.share_evidence(outcomes, getattr(sequences.share(outcomes), end)) == pytest.approx(20, rel=1e-6)


def test_share_against_the_integral() -> None:
    """Uniform mixture: the integral of p^s (1 - p)^(n - s) over p, against a share of exactly q."""
    outcomes, q = [1, 1, 1, 0, 1], 0.3
    mixture = quad(lambda p: p**4 * (1 - p), 0, 1)[0]
    assert sequences.share_evidence(outcomes, q) == pytest.approx(mixture / (q**4 * (1 - q)))
    interval = sequences.share([1] * 10)
    assert interval.high == 1.0
    assert interval.low == pytest.approx((0.05 / 11) ** 0.1)  # 1 / 11 = 20 low^10


def test_equal_values_are_no_evidence() -> None:
    assert sequences.normal([1.0] * 10) == Estimate(1.0, -math.inf, math.inf, 10)
    assert sequences.normal_evidence([1.0] * 10, 0.0) == 1.0


def test_bounded_values_are_bet_on() -> None:
    values = [0.3, 0.5, 0.2, 0.4, 0.6] * 8
    interval = sequences.bounded(values, -1, 1)
    assert interval.low < 0.4 < interval.high
    assert interval.high - interval.low < 0.6
    assert sequences.bounded_evidence(values, -0.5, -1, 1) > 20
    with pytest.raises(ValueError, match="must lie in"):
        sequences.bounded([2.0], -1, 1)


def test_folds_are_wider_than_independent_seeds() -> None:
    """Nadeau & Bengio: the variance of the mean is s^2 (1/n + test/train) instead of s^2 / n."""
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    ratio = sequences.folds(values, 0.25).half_width / sequences.t_interval(values).half_width
    assert ratio == pytest.approx(math.sqrt((1 / 5 + 0.25) * 5))


def test_images_are_resampled() -> None:
    """Of 1,000 images 60 turn right and 40 turn wrong: the mean is 0.02, its standard error sqrt(0.0996 / 1000)."""
    interval = sequences.images([(1.0, 60), (-1.0, 40), (0.0, 900)])
    assert interval.mean == pytest.approx(0.02)
    assert interval.half_width == pytest.approx(1.96 * math.sqrt(0.0996 / 1000), rel=0.03)


def test_t_interval_is_scipys() -> None:
    values = [1.0, 2.0, 4.0]
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    interval = sequences.t_interval(values)
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_seeds_needed_are_where_the_interval_leaves_the_margin() -> None:
    values = [1.0, 2.0, -1.0, 0.5, 0.2, 1.5]
    distance, s = 0.9, float(np.std(values, ddof=1))
    n = sequences.seeds_needed(values, distance)
    assert n is not None
    assert sequences.t_multiple(n) * s / math.sqrt(n) < distance
    assert n > 6
    assert sequences.t_multiple(n - 1) * s / math.sqrt(n - 1) >= distance
    assert sequences.seeds_needed(values, 5.0) == 6  # decided already
    assert sequences.seeds_needed([0.0, 0.0], 1.0) is None


def test_e_bh_by_hand() -> None:
    """Five claims at 5%: the k-th largest must reach 100 / k. 100 and 60 do (100, 50), 30 does not (33.3)."""
    assert sequences.e_bh([100, 30, 1, 5, 60]) == [True, False, False, False, True]
    assert sequences.e_bh([99, 1, 1, 1, 1]) == [False] * 5
    assert sequences.e_bh([]) == []


def stopped(draw: np.ndarray, margin: float, most: int = 32) -> tuple[bool, bool]:
    """Looks after every seed from the sixth on; (the margin was ever left out, it was called supported)."""
    n = np.arange(1, most + 1)
    mean = np.cumsum(draw, 1) / n
    spread = np.sqrt(np.maximum(np.cumsum(draw**2, 1) - n * mean**2, 0) / np.maximum(n - 1, 1))
    multiple = np.array([sequences.t_multiple(int(k)) if k > 2 else np.inf for k in n])
    with np.errstate(invalid="ignore"):
        half = np.where(spread > 0, multiple * spread / np.sqrt(n), np.inf)
    above, below = mean - half > margin, mean + half < margin
    looked = slice(5, None)
    left = (above | below)[:, looked].any(1)
    first = np.where(left, (above | below)[:, looked].argmax(1), 0)
    supported = left & above[:, looked][np.arange(len(draw)), first]
    return float(left.mean()), float(supported.mean())  # type: ignore[return-value]


@pytest.mark.parametrize("kind", ["normal", "skewed", "ties"])
def test_looking_after_every_seed_does_not_deceive(kind: str) -> None:
    """20,000 entries whose true difference is the margin: wrong `supported` at most 2.5% of the time, and 3 errors."""
    source = np.random.default_rng(0)
    size = (20_000, 32)
    draw = {
        "normal": lambda: source.normal(0, 1, size),
        "skewed": lambda: 8.0 - source.gamma(8.0, 1.0, size),  # skewness -0.7, the bad side: rare large losses
        "ties": lambda: source.choice([-0.5, 0.0, 0.5], p=[0.25, 0.5, 0.25], size=size),
    }[kind]()
    wrong, supported = stopped(draw, 0.0)
    error = 3 * math.sqrt(0.025 * 0.975 / len(draw))
    assert wrong <= 0.05 + 2 * error
    assert supported <= 0.025 + error


def test_what_strong_skew_costs_is_known() -> None:
    """Exponential losses (skewness -2) make `supported` wrong in 10% of entries: then `kind: bounded` is the rule."""
    source = np.random.default_rng(1)
    _, supported = stopped(1.0 - source.exponential(1.0, (20_000, 32)), 0.0)
    assert 0.05 < supported < 0.15


def test_shares_keep_their_level_at_every_look() -> None:
    source = np.random.default_rng(2)
    true, wrong = 0.3, 0
    edges = {
        n: [sequences.share_evidence([1] * s + [0] * (n - s), true) >= 20 for s in range(n + 1)] for n in range(6, 33)
    }
    for outcomes in source.random((20_000, 32)) < true:
        counts = np.cumsum(outcomes)
        wrong += any(edges[n][counts[n - 1]] for n in range(6, 33))
    assert wrong / 20_000 <= 0.05


def test_bounded_keeps_its_level_at_every_look() -> None:
    source = np.random.default_rng(3)
    wrong = 0
    for draw in source.choice([0.0, 0.5, 1.0], p=[0.2, 0.4, 0.4], size=(400, 32)):
        true = 0.6
        wrong += any(sequences.bounded_evidence(list(draw[:n]), true, 0, 1) >= 20 for n in range(6, 33))
    assert wrong / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
