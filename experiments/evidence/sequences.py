"""Intervals that hold at every number of seeds at once, so that one may look after each and stop at will.

Each function gives the interval and, for a limit m, an e-value against "the mean is at most m" or "at least m": the
factor by which a fair game against that hypothesis has grown. It reaches 1/alpha exactly when the interval at alpha
leaves m behind, and e-values may be compared over claims (e-BH).

- normal differences: the t-mixture confidence sequence (Wang & Ramdas 2024, "Anytime-valid t-tests and confidence
  sequences for Gaussian means with unknown variance").
- shares of 0/1 outcomes: the beta-binomial mixture (Robbins 1970; Howard et al. 2021, Sec. 3.2).
- bounded values: betting with a predictable plug-in, hedged (Waudby-Smith & Ramdas 2024, Sec. 4).

Imports no torch, and numpy and scipy only where they are used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

ALPHA = 0.05
G = 4.0  # of the t-mixture: the prior's variance of the mean, in units of the values' own variance
MOST = 100_000  # seeds that a forecast looks ahead


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; infinite where nothing can be said yet."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def mean_of(values: Sequence[float]) -> float:
    """Raises ValueError without values or with one that is not finite."""
    if not values or not all(math.isfinite(v) for v in values):
        raise ValueError(f"an interval needs finite values, got {list(values)}")
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # of the sum, not of the mean
        return math.fsum(value / len(values) for value in values)


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation; 0 for a single value, infinite where a float cannot hold it."""
    mean = mean_of(values)
    try:
        return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / max(1, len(values) - 1))
    except OverflowError:
        return math.inf


def t_multiple(n: int, alpha: float = ALPHA, g: float = G) -> float:
    """Half the interval's width in units of s / sqrt(n); infinite for the first few seeds."""
    if n < 2:
        return math.inf
    c = ((1 + n * g) / alpha**2) ** (1 / n)
    if c >= 1 + n * g:
        return math.inf
    return math.sqrt((n - 1) * (c - 1) / (1 - c / (1 + n * g)))


def normal(values: Sequence[float], alpha: float = ALPHA) -> Estimate:
    """The t-mixture interval. Equal values have no spread to learn from: their interval is infinite."""
    n, mean, s = len(values), mean_of(values), deviation(values)
    half = t_multiple(n, alpha) * s / math.sqrt(n) if s > 0 else math.inf
    return Estimate(mean, mean - half, mean + half, n)


def normal_evidence(values: Sequence[float], limit: float, g: float = G) -> float:
    """E-value of the t-mixture against a mean of exactly `limit`."""
    n, s = len(values), deviation(values)
    if n < 2 or s == 0:
        return 1.0
    x = n * ((mean_of(values) - limit) / s) ** 2 / (n - 1)
    return float(((1 + x) / (1 + x / (1 + n * g))) ** (n / 2) / math.sqrt(1 + n * g))


def _log_beta_binomial(successes: float, n: int, p: float) -> float:
    """Log of the uniform mixture over shares against a share of exactly p."""
    fits = successes * math.log(p) if successes else 0.0
    misses = (n - successes) * math.log1p(-p) if successes < n else 0.0
    mixture = math.lgamma(1 + successes) + math.lgamma(1 + n - successes) - math.lgamma(2 + n)
    return mixture - fits - misses


def share(values: Sequence[float], alpha: float = ALPHA) -> Estimate:
    """Of 0/1 outcomes, with a uniform mixture. Raises ValueError for any other value."""
    from scipy.optimize import brentq

    if any(v not in (0, 1) for v in values):
        raise ValueError(f"a share needs outcomes of 0 or 1, got {list(values)}")
    n, successes, mean = len(values), math.fsum(values), mean_of(values)
    bar = -math.log(alpha)
    tiny = 1e-12

    def over(p: float) -> float:
        return _log_beta_binomial(successes, n, p) - bar

    low, high = 0.0, 1.0  # where no share is far enough from the outcomes
    if successes > 0 and over(tiny) >= 0:
        low = float(brentq(over, tiny, min(mean, 1 - tiny)))
    if successes < n and over(1 - tiny) >= 0:
        high = float(brentq(over, max(mean, tiny), 1 - tiny))
    return Estimate(mean, low, high, n)


def share_evidence(values: Sequence[float], limit: float) -> float:
    """E-value of the beta-binomial mixture against a share of exactly `limit`."""
    if not 0 < limit < 1:
        return math.inf if any(v != limit for v in values) else 1.0
    return math.exp(_log_beta_binomial(math.fsum(values), len(values), limit))


def _capital(values: Sequence[float], limit: float, alpha: float) -> float:
    """Hedged capital of betting for and against a mean above `limit`; values and limit in [0, 1]."""
    most_up = 0.5 / limit if limit > 0 else math.inf  # a bet that loses half of the capital at most
    most_down = 0.5 / (1 - limit) if limit < 1 else math.inf
    up = down = 1.0
    total, squares = 0.5, 0.25  # one pseudo-observation: mean 1/2, variance 1/4
    variance = 0.25
    for t, x in enumerate(values, start=1):
        bet = math.sqrt(2 * math.log(2 / alpha) / (variance * t * math.log(t + 1)))
        up *= 1 + min(bet, most_up) * (x - limit)
        down *= 1 - min(bet, most_down) * (x - limit)
        total += x
        mean = total / (t + 1)
        squares += (x - mean) ** 2
        variance = squares / (t + 1)
    return (up + down) / 2


def bounded(values: Sequence[float], low: float, high: float, alpha: float = ALPHA) -> Estimate:
    """Of values in [low, high]: all means that a hedged bettor has not yet ruined. Resolution 1/2000 of the range.

    Raises ValueError for a value outside.
    """
    if any(not low <= v <= high for v in values):
        raise ValueError(f"values must lie in [{low:g}, {high:g}], got {list(values)}")
    width = high - low
    mean = mean_of(values)
    scaled = [(v - low) / width for v in values]
    steps = 2000
    inside = [i for i in range(steps + 1) if _capital(scaled, i / steps, alpha) < 1 / alpha]
    inside = inside or [round((mean - low) / width * steps)]

    first = max(0, inside[0] - 1)
    last = min(steps, inside[-1] + 1)
    return Estimate(mean, low + width * first / steps, low + width * last / steps, len(values))


def bounded_evidence(values: Sequence[float], limit: float, low: float, high: float, alpha: float = ALPHA) -> float:
    """E-value of the hedged bettor against a mean of exactly `limit`."""
    if not low <= limit <= high:
        return math.inf
    return _capital([(v - low) / (high - low) for v in values], (limit - low) / (high - low), alpha)


def folds(values: Sequence[float], test_over_train: float, alpha: float = ALPHA) -> Estimate:
    """Corrected resampled t interval (Nadeau & Bengio 2003) of folds that share training data. Not anytime-valid."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    n, mean, s = len(values), mean_of(values), deviation(values)
    if n < 2 or s == 0:
        return Estimate(mean, -math.inf, math.inf, n)
    half = float(stdtrit(n - 1, 1 - alpha / 2)) * s * math.sqrt(1 / n + test_over_train)
    return Estimate(mean, mean - half, mean + half, n)


def images(counts: Sequence[tuple[float, int]], alpha: float = ALPHA, draws: int = 10_000) -> Estimate:
    """Bootstrap over images of fixed networks: percentiles of the mean of (value, how many images have it)."""
    import numpy as np

    values = np.array([value for value, _ in counts], dtype=float)
    number = np.array([count for _, count in counts], dtype=np.int64)
    n = int(number.sum())
    if n < 2:
        raise ValueError(f"a bootstrap needs at least two images, got {n}")
    drawn = np.random.default_rng(0).multinomial(n, number / n, size=draws)
    low, high = np.quantile(drawn @ values / n, [alpha / 2, 1 - alpha / 2])
    return Estimate(float(number @ values / n), float(low), float(high), n)


def t_interval(values: Sequence[float], alpha: float = ALPHA) -> Estimate:
    """Student's t interval, for a number of seeds that was fixed beforehand; infinite below two seeds."""
    from scipy.special import stdtrit  # scipy.stats takes a second to import

    n, mean = len(values), mean_of(values)
    if n < 2:
        return Estimate(mean, -math.inf, math.inf, n)
    half = float(stdtrit(n - 1, 1 - alpha / 2)) * deviation(values) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def seeds_needed(values: Sequence[float], distance: float, alpha: float = ALPHA) -> int | None:
    """Seeds at which half the t-mixture's width falls below `distance` if the spread stays as it is.

    None if that is not in sight.
    """
    n, s = len(values), deviation(values)
    if n < 2 or s == 0 or distance <= 0:
        return None
    low, high = n, n
    while t_multiple(high, alpha) * s / math.sqrt(high) >= distance:
        if high >= MOST:
            return None
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        if t_multiple(middle, alpha) * s / math.sqrt(middle) < distance:
            high = middle
        else:
            low = middle + 1
    return high


def e_bh(evidence: Sequence[float], alpha: float = ALPHA) -> list[bool]:
    """Which of several claims may be called found at a false discovery rate of alpha (Wang & Ramdas 2022).

    Holds whatever the claims' dependence.
    """
    order = sorted(range(len(evidence)), key=lambda i: -evidence[i])
    enough = [k for k, i in enumerate(order, start=1) if k * evidence[i] >= len(evidence) / alpha]
    chosen = set(order[: max(enough, default=0)])
    return [i in chosen for i in range(len(evidence))]
