"""From recorded metrics to verdicts. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.config import expressions
from experiments.config.claims import Check, Claim, Published
from experiments.config.expressions import Missing, Table
from experiments.evidence import rules, sequences
from experiments.evidence.words import FAILED, MATCHED, NOT_RUN, UNDECIDED, UNTESTED

RULE = 1  # of this room's decisions: raised when a verdict could change from the same numbers


def judge(
    claim: Claim, table: Table, seeds: Sequence[int], looked: int, outcomes: rules.Outcomes | None = None
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
    rule = rules.rule_of(claim)
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
        "rule": rule.words(),
        "refuted_by": rule.refuted_by(),
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
        judgement = rule.judge(differences, outcomes)
    except ValueError as error:
        return {**judged, "reason": str(error)}
    judged |= vars(judgement)
    absent = [item for item in judged["requires"] if not item["holds"]]
    if absent:
        said = "; ".join(_said(item) for item in absent)
        judged |= {"verdict": UNTESTED, "reason": f"the mechanism is absent: {said}", "needed": None}
    return judged


def _said(item: Mapping[str, Any]) -> str:
    """A comparison that does not hold, and what it is instead."""
    if item["values"] is None:
        return f"{item['text']} ({item['reason']})"
    return f"{item['text']} (it is {item['values'][0]:.3g})"


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
