"""From recorded metrics to verdicts. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config import expressions
from experiments.config.claims import Check, Claim, Published
from experiments.config.expressions import Missing, Table
from experiments.evidence import sequences
from experiments.evidence.sequences import Estimate

RULE = 1  # of this file's decisions: raised when a verdict could change from the same numbers
SUPPORTED, REFUTED, NO_GAIN, UNDECIDED = "supported", "refuted", "no gain", "undecided"
UNTESTED, NOT_RUN, HOLDS, FAILS = "untested", "not run", "holds", "fails"
MATCHED, FAILED = "matched", "failed"
DECIDED = (SUPPORTED, REFUTED, NO_GAIN, HOLDS, FAILS)


def rule(claim: Claim) -> str:
    """The rule in words."""
    difference = (
        f"{claim.than} - {_side(claim.better)}" if claim.lower_is_better else f"{claim.better} - {_side(claim.than)}"
    )
    if claim.kind == "exact":
        return f"{difference} {f'inside ±{claim.within:g}' if claim.within is not None else f'above {claim.margin:g}'}"
    if claim.within is not None:
        return f"95% interval of {difference} inside ±{claim.within:g}"
    return f"95% interval of {difference} above {claim.margin:g}"


def _side(text: str | float) -> str:
    """What is subtracted, in parentheses where it needs them."""
    return f"({text})" if isinstance(text, str) and (" + " in text or " - " in text) else str(text)


def refuted_by(claim: Claim) -> str:
    """What would refute it, in words."""
    place = f"outside ±{claim.within:g}" if claim.within is not None else f"below {claim.margin:g}"
    return f"a difference {place}" if claim.kind == "exact" else f"a 95% interval {place}"


Outcomes = Sequence[tuple[float, int]]  # differences of single images, and how many images have each


def judge(
    claim: Claim, table: Table, seeds: Sequence[int], looked: int, outcomes: Outcomes | None = None
) -> dict[str, Any]:
    """Apply a claim's rule to recorded metrics.

    Args:
        claim: the claim.
        table: stage -> metric -> seed -> value.
        seeds: those of the entry, in the order of their stream.
        looked: how many of them every stage ran for; the rest may hold the stages of the main claim alone.
        outcomes: of kind "images", the differences of single images.

    Returns:
        what results/<key>.json holds of a claim. The main claim is judged by all seeds, another one by those, in
        order, that have all its stages.
    """
    judged: dict[str, Any] = {
        "name": claim.name,
        "main": claim.main,
        "asked_by": claim.asked_by,
        "kind": claim.kind,
        "better": claim.better,
        "than": claim.than,
        "lower_is_better": claim.lower_is_better,
        "unit": claim.unit,
        "margin": claim.margin,
        "worth": claim.worth,
        "within": claim.within,
        "range": list(claim.range) if claim.range is not None else None,
        "test_over_train": claim.test_over_train,
        "rule": rule(claim),
        "refuted_by": refuted_by(claim),
        "published": dict(claim.published) if claim.published is not None else None,
        "requires": [],
        "seeds": [],
        "per_seed": [],
        "difference": None,
        "interval": None,
        "verdict": NOT_RUN,
        "reason": "",
        "needed": None,
        "evidence": None,
        "outcomes": [list(pair) for pair in outcomes] if outcomes is not None else None,
    }
    try:
        differences = _differences(claim, table, seeds, looked)
    except Missing as missing:
        return {**judged, "reason": str(missing)}
    used = list(seeds)[: len(differences)]
    judged |= {"seeds": used, "per_seed": differences}
    judged["requires"] = [holds(text, table, used) for text in claim.requires]
    try:
        estimate = interval(claim, differences, outcomes)
    except ValueError as error:
        return {**judged, "reason": str(error)}
    judged["difference"] = estimate.mean
    if all(math.isfinite(end) for end in (estimate.low, estimate.high)):
        judged["interval"] = [estimate.low, estimate.high]
    judged["evidence"] = evidence(claim, differences)
    return {**judged, **_verdict(claim, differences, estimate, judged["requires"])}


def _differences(claim: Claim, table: Table, seeds: Sequence[int], looked: int) -> list[float]:
    """Paired by seed. Raises Missing if a seed lacks that the claim must have."""
    better, than = claim.expression()
    sign = -1.0 if claim.lower_is_better else 1.0
    values = []
    if not seeds:
        raise Missing("no seed has run")
    for position, seed in enumerate(seeds):
        try:
            difference = expressions.evaluate(better, table, seed) - expressions.evaluate(than, table, seed)
        except Missing:
            if claim.main or position < looked:
                raise
            break
        values.append(sign * difference)
    return values


def holds(comparison: str, table: Table, seeds: Sequence[int]) -> dict[str, Any]:
    """A comparison in the mean over seeds: its text, both sides' means and whether it holds; None if it cannot tell."""
    left, sign, right = expressions.comparison(comparison, comparison)
    try:
        sides = [
            math.fsum(expressions.evaluate(side, table, seed) for seed in seeds) / len(seeds) for side in (left, right)
        ]
    except (Missing, ZeroDivisionError) as missing:
        return {"text": comparison, "values": None, "holds": None, "reason": str(missing)}
    return {"text": comparison, "values": sides, "holds": expressions.COMPARE[sign](*sides), "reason": ""}


def interval(
    claim: Claim,
    differences: Sequence[float],
    outcomes: Outcomes | None = None,
    alpha: float = sequences.ALPHA,
) -> Estimate:
    """The interval of a claim's kind, of its differences. Raises ValueError where the values do not fit the kind."""
    if claim.kind == "share":
        shift = float(claim.than) if not isinstance(claim.than, str) else None
        if shift is None:
            raise ValueError("a share is held against a number; the difference of two shares is of kind bounded")
        sign = -1.0 if claim.lower_is_better else 1.0
        whole = sequences.share([round(sign * d + shift, 9) for d in differences], alpha)
        low, high = sorted(sign * (end - shift) for end in (whole.low, whole.high))
        return Estimate(sign * (whole.mean - shift), low, high, whole.n)
    if claim.kind == "images":
        if not outcomes:
            raise ValueError("its stages kept no outcome for each image")
        sign = -1.0 if claim.lower_is_better else 1.0
        return sequences.images([(sign * value, count) for value, count in outcomes], alpha)
    if claim.kind == "bounded":
        assert claim.range is not None
        return sequences.bounded(differences, claim.range[0], claim.range[1], alpha)
    if claim.kind == "folds":
        assert claim.test_over_train is not None
        return sequences.folds(differences, claim.test_over_train, alpha)
    if claim.kind == "exact":
        mean = sequences.mean_of(differences)
        if len(set(differences)) > 1:
            raise ValueError(f"not exact: over seeds it is {min(differences):g} to {max(differences):g}")
        return Estimate(mean, mean, mean, len(differences))
    return sequences.normal(differences, alpha)


def evidence(claim: Claim, differences: Sequence[float]) -> float | None:
    """E-value against "not above the margin" (or "not inside ±within"); None where the kind has none."""
    if claim.within is not None:
        return min(
            _evidence_above(claim, differences, -claim.within), _evidence_below(claim, differences, claim.within)
        )
    if claim.kind in ("exact", "folds", "images"):
        return None
    return _evidence_above(claim, differences, claim.margin)


def _evidence_at(claim: Claim, differences: Sequence[float], limit: float) -> float:
    if claim.kind == "bounded":
        assert claim.range is not None
        return min(sequences.bounded_evidence(differences, limit, *claim.range), 1e12)
    if claim.kind == "share":
        sign = -1.0 if claim.lower_is_better else 1.0
        shift = float(claim.than)
        outcomes = [round(sign * d + shift, 9) for d in differences]
        return min(sequences.share_evidence(outcomes, sign * limit + shift), 1e12)
    return min(sequences.normal_evidence(differences, limit), 1e12)


def _evidence_above(claim: Claim, differences: Sequence[float], limit: float) -> float:
    """The smallest e-value of all means that are at most `limit`: at the limit, or at our own mean if that is lower."""
    return _evidence_at(claim, differences, min(limit, sequences.mean_of(differences)))


def _evidence_below(claim: Claim, differences: Sequence[float], limit: float) -> float:
    return _evidence_at(claim, differences, max(limit, sequences.mean_of(differences)))


def _verdict(
    claim: Claim, differences: Sequence[float], estimate: Estimate, requires: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The first condition that fits: verdict, reason, and the seeds that a decision would take."""
    missing = [item for item in requires if not item["holds"]]
    if missing:
        said = "; ".join(_said(item) for item in missing)
        return {"verdict": UNTESTED, "reason": f"the mechanism is absent: {said}"}
    low, high = estimate.low, estimate.high
    if claim.kind == "exact":
        true = abs(low) <= claim.within if claim.within is not None else low > claim.margin
        return {"verdict": HOLDS if true else FAILS, "reason": ""}
    if claim.within is not None:
        if -claim.within < low and high < claim.within:
            return {"verdict": SUPPORTED, "reason": ""}
        if low > claim.within or high < -claim.within:
            return {"verdict": REFUTED, "reason": ""}
        return _undecided(claim, differences, estimate)
    worth = claim.worth or 0.0
    if low > claim.margin:
        small = high < claim.margin + worth
        return {"verdict": SUPPORTED, "reason": "by less than is worth the name" if small else ""}
    if high < claim.margin:
        return {"verdict": REFUTED, "reason": ""}
    if high < claim.margin + worth:
        return {
            "verdict": NO_GAIN,
            "reason": "none either way" if low > claim.margin - worth else "none worth the name",
        }
    return _undecided(claim, differences, estimate)


def _said(item: Mapping[str, Any]) -> str:
    if item["values"] is None:
        return f"{item['text']} ({item['reason']})"
    return f"{item['text']} (it is {item['values'][0]:.3g})"


def _undecided(claim: Claim, differences: Sequence[float], estimate: Estimate) -> dict[str, Any]:
    if len(differences) < 2:
        return {"verdict": UNDECIDED, "reason": "one seed has no interval"}
    if not math.isfinite(estimate.low) and len(set(differences)) == 1:
        return {"verdict": UNDECIDED, "reason": "all differences are equal: no spread, no evidence"}
    needed = None
    if claim.kind == "normal":
        mean = estimate.mean
        if claim.within is not None:
            distance = abs(abs(mean) - claim.within)
        else:
            distance = max(abs(mean - claim.margin), claim.margin + (claim.worth or 0.0) - mean)
        needed = sequences.seeds_needed(differences, distance)
    half = f"± {estimate.half_width:.3g} {claim.unit}" if math.isfinite(estimate.low) else "no interval yet"
    return {
        "verdict": UNDECIDED,
        "reason": f"{half}; about {needed} seeds would decide" if needed else half,
        "needed": needed,
    }


def find(judged: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mark the exploratory claims that may be called found: e-BH over all of them."""
    counted = [c for c in judged if not c["main"] and c["evidence"] is not None]
    marks = (
        dict(zip(map(id, counted), sequences.e_bh([c["evidence"] for c in counted]), strict=True)) if counted else {}
    )
    return [{**c, "found": marks.get(id(c))} for c in judged]


def check(item: Check, table: Table, seeds: Sequence[int]) -> dict[str, Any]:
    """A check as results/<key>.json holds it."""
    return {"name": item.name, **holds(item.holds, table, seeds)}


def compare(item: Published, table: Table, seeds: Sequence[int], scale: str) -> dict[str, Any]:
    """A published number beside ours; judged at full scale, where something tries to reach it, and if it is exact.

    matched: the 90% interval of our mean lies inside the tolerance around it, which noise makes harder, not easier;
    failed: it lies outside; else undecided.
    """
    compared: dict[str, Any] = {**vars(item), "verdict": NOT_RUN, "ours": None, "interval": None}
    values = [v for s in seeds if (v := table.get(item.stage, {}).get(item.metric, {}).get(s)) is not None]
    if not values or not all(math.isfinite(v) for v in values):
        return compared
    low, high = item.value - item.tolerance, item.value + item.tolerance
    compared["ours"] = sequences.mean_of(values)
    if item.kind == "exact":
        return {**compared, "verdict": MATCHED if low <= compared["ours"] <= high else FAILED}
    estimate = sequences.t_interval(values, alpha=0.1)
    bounded = math.isfinite(estimate.low)
    compared["interval"] = [estimate.low, estimate.high] if bounded else None
    if scale != "full":
        return compared
    if not bounded:
        return {**compared, "verdict": UNDECIDED}
    if low <= estimate.low and estimate.high <= high:
        return {**compared, "verdict": MATCHED}
    return {**compared, "verdict": FAILED if estimate.low > high or estimate.high < low else UNDECIDED}
