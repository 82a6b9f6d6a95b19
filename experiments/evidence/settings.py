"""One question over several settings of a paper: random effects. Imports no torch.

Each setting has its own true difference; these scatter around a mean. The scatter is DerSimonian and Laird's moment
estimate (1986, Eq. 8), the mean's interval Hartung and Knapp's (2001), whose width follows from how the settings'
differences lie and not from their seeds alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from experiments.evidence.judged import JudgedClaim
from experiments.evidence.rules import RULES
from experiments.evidence.sequences import ALPHA, deviation, mean_of
from experiments.evidence.words import DECIDED, UNDECIDED

JUDGED = {*DECIDED, UNDECIDED}  # not where the mechanism was absent or a stage did not finish


@dataclass(frozen=True)
class Between:
    """Settings together.

    Attributes:
        settings: how many.
        mean: of their true differences, in the claim's unit.
        low, high: the mean's 95% interval.
        spread: the standard deviation of their true differences.
    """

    settings: int
    mean: float
    low: float
    high: float
    spread: float


def random_effects(means: Sequence[float], variances: Sequence[float]) -> Between:
    """Settings' mean differences, together.

    Args:
        means: one for each setting.
        variances: of these means, as their seeds give them; above 0.

    Raises ValueError for fewer than two settings or a variance that is not above 0.
    """
    from scipy import stats

    count = len(means)
    if count < 2 or any(not variance > 0 for variance in variances):
        raise ValueError(f"expected two settings or more, each with a spread over its seeds; got {list(variances)}")

    fixed = [1 / variance for variance in variances]
    fixed_mean = _weighted(means, fixed)
    heterogeneity = math.fsum(w * (y - fixed_mean) ** 2 for w, y in zip(fixed, means, strict=True))
    scale = math.fsum(fixed) - math.fsum(w * w for w in fixed) / math.fsum(fixed)
    between = max(0.0, (heterogeneity - (count - 1)) / scale)

    weights = [1 / (variance + between) for variance in variances]
    mean = _weighted(means, weights)
    scatter = math.fsum(w * (y - mean) ** 2 for w, y in zip(weights, means, strict=True)) / (count - 1)
    error = math.sqrt(max(1.0, scatter) / math.fsum(weights))  # never below what the seeds alone give
    half = float(stats.t.ppf(1 - ALPHA / 2, count - 1)) * error
    return Between(count, mean, mean - half, mean + half, math.sqrt(between))


def _weighted(values: Sequence[float], weights: Sequence[float]) -> float:
    return math.fsum(w * y for w, y in zip(weights, values, strict=True)) / math.fsum(weights)


def between(claims: Iterable[JudgedClaim]) -> Between | None:
    """The first claim's question over all settings that asked it in these words and this unit.

    Settings in which the mechanism was absent, or whose seeds do not scatter, are left out; None for fewer than two.
    """
    asked = list(claims)
    alike = [c for c in asked if (c.name, c.unit) == (asked[0].name, asked[0].unit) and c.verdict in JUDGED]
    spread = [c for c in alike if RULES[c.kind].has_chance and len(c.per_seed) > 1 and deviation(c.per_seed) > 0]
    if len(spread) < 2:
        return None
    variances = [deviation(c.per_seed) ** 2 / len(c.per_seed) for c in spread]
    return random_effects([mean_of(c.per_seed) for c in spread], variances)
