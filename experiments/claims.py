"""From recorded runs to verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.plan import Claim, Published

SUPPORTED, REFUTED, INCONCLUSIVE, NOT_RUN = "supported", "refuted", "inconclusive", "not run"
MATCHED, PARTIAL, FAILED = "matched", "partial", "failed"
Table = Mapping[str, Mapping[str, Sequence[float]]]  # stage -> metric -> one value per seed


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its two-sided Student-t interval; the interval is infinite below two seeds."""

    mean: float
    low: float
    high: float
    n: int


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean and t interval. Raises ValueError without values or with one that is not finite."""
    if not values or not all(math.isfinite(v) for v in values):
        raise ValueError(f"an interval needs finite values, got {list(values)}")
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Estimate(mean, -math.inf, math.inf, n)
    from scipy.stats import t

    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    half = float(t.ppf(0.5 + confidence / 2, n - 1)) * error
    return Estimate(mean, mean - half, mean + half, n)


def _values(table: Table, metric: str, seeds: int) -> tuple[Sequence[float], str]:
    """One value per seed, or the reason why there is none."""
    stage, name = metric.split("/", 1)
    values = table.get(stage, {}).get(name)
    if stage not in table:
        return (), f"{stage} did not finish for every seed"
    if values is None:
        return (), f"{stage} reports no {name}; it reports {', '.join(table[stage])}"
    if len(values) != seeds or not all(math.isfinite(v) for v in values):
        return (), f"{metric} is not finite for every seed"
    return values, ""


def rule(claim: Claim) -> str:
    """The rule in words, as the report shows it."""
    percent = f"{100 * claim.confidence:g}%"
    turned = " (lower is better)" if claim.lower_is_better else ""
    if claim.within is not None:
        return f"{percent} interval of {claim.better} - {claim.than} inside ±{claim.within:g}"
    return f"{percent} interval of {claim.better} - {claim.than} above {claim.margin:g}{turned}"


def judge(claim: Claim, table: Table, seeds: int) -> dict[str, Any]:
    """Apply a claim's rule to recorded metrics: paired differences, interval, verdict."""
    found: dict[str, Any] = {
        "name": claim.name,
        "better": claim.better,
        "than": claim.than,
        "rule": rule(claim),
        "margin": claim.margin,
        "within": claim.within,
        "refuted_by": claim.refuted_by,
        "verdict": NOT_RUN,
        "difference": None,
        "interval": None,
        "per_seed": [],
        "reason": "",
    }
    better, reason = _values(table, claim.better, seeds)
    than, other = _values(table, claim.than, seeds) if isinstance(claim.than, str) else ([claim.than] * seeds, "")
    if reason or other:
        return {**found, "reason": reason or other}
    sign = -1.0 if claim.lower_is_better else 1.0
    differences = [sign * (a - b) for a, b in zip(better, than, strict=True)]
    measured = estimate(differences, claim.confidence)
    found |= {"difference": measured.mean, "per_seed": differences, "verdict": _verdict(claim, measured)}
    if measured.n < 2:
        return {**found, "reason": "one seed has no interval; run at least two"}
    return {**found, "interval": [measured.low, measured.high]}


def _verdict(claim: Claim, measured: Estimate) -> str:
    if claim.within is not None:
        if -claim.within < measured.low and measured.high < claim.within:
            return SUPPORTED
        return REFUTED if measured.low > claim.within or measured.high < -claim.within else INCONCLUSIVE
    if measured.low > claim.margin:
        return SUPPORTED
    return REFUTED if measured.high < claim.margin else INCONCLUSIVE


def compare(item: Published, table: Table, seeds: int, scale: str) -> dict[str, Any]:
    """A published number beside ours. Only the full recipe is judged: nothing else tries to reach the number.

    matched: the published value lies within the tolerance of our interval (of our mean below two seeds); partial: our
    mean lies within five tolerances of it; failed: it does not.
    """
    found: dict[str, Any] = {**vars(item), "verdict": NOT_RUN, "ours": None, "interval": None}
    values, reason = _values(table, f"{item.stage}/{item.metric}", seeds)
    if reason:
        return found
    measured = estimate(values)
    bounded = math.isfinite(measured.low)
    found |= {"ours": measured.mean, "interval": [measured.low, measured.high] if bounded else None}
    if scale != "full":
        return found
    low, high = (measured.low, measured.high) if bounded else (measured.mean, measured.mean)
    if low - item.tolerance <= item.value <= high + item.tolerance:
        return {**found, "verdict": MATCHED}
    return {**found, "verdict": PARTIAL if abs(measured.mean - item.value) <= 5 * item.tolerance else FAILED}
