"""From recorded metrics to verdicts. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

from experiments.config import expressions
from experiments.config.claims import Check, Claim, Published
from experiments.config.expressions import Missing, Table
from experiments.evidence import rules, sequences
from experiments.evidence.records import CheckResult, Comparison, JudgedClaim, PublishedDifference, PublishedResult
from experiments.evidence.words import FAILED, MATCHED, NOT_RUN, UNDECIDED, UNTESTED

RULE = 1  # of this room's decisions: raised when a verdict could change from the same numbers


def judge(
    claim: Claim, table: Table, seeds: Sequence[int], looked: int, outcomes: rules.Outcomes | None = None
) -> JudgedClaim:
    """Apply a claim's rule to recorded metrics.

    Args:
        claim: the claim.
        table: stage -> metric -> seed -> value.
        seeds: those of the entry, in the order of their stream.
        looked: how many of them every stage ran for; the rest may hold the stages of the main claim alone.
        outcomes: of kind "images", the differences of single images.

    The main claim is judged by all seeds, another one by those, in order, that have all its stages.
    """
    rule = rules.rule_of(claim)
    judged = JudgedClaim(
        name=claim.name,
        main=claim.main,
        asked_by=claim.asked_by,
        kind=claim.kind,
        better=claim.better,
        than=claim.than,
        lower_is_better=claim.lower_is_better,
        unit=claim.unit,
        margin=claim.margin,
        worth=claim.worth,
        within=claim.within,
        range=list(claim.range) if claim.range is not None else None,
        test_over_train=claim.test_over_train,
        rule=rule.words(),
        refuted_by=rule.refuted_by(),
        published=PublishedDifference(**claim.published) if claim.published is not None else None,
        requires=[],
        seeds=[],
        per_seed=[],
        difference=None,
        interval=None,
        verdict=NOT_RUN,
        reason="",
        needed=None,
        evidence=None,
        outcomes=[list(pair) for pair in outcomes] if outcomes is not None else None,
        found=None,
    )
    try:
        judged.per_seed = _differences(claim, table, seeds, looked)
    except Missing as missing:
        judged.reason = str(missing)
        return judged

    judged.seeds = list(seeds)[: len(judged.per_seed)]
    judged.requires = [holds(text, table, judged.seeds) for text in claim.requires]
    try:
        judgement = rule.judge(judged.per_seed, outcomes)
    except ValueError as error:
        judged.reason = str(error)
        return judged

    judged = judged.model_copy(update=vars(judgement))
    absent = [item.said() for item in judged.requires if not item.holds]
    if absent:
        judged.verdict = UNTESTED
        judged.reason = f"the mechanism is absent: {'; '.join(absent)}"
        judged.needed = None
    return judged


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


def holds(comparison: str, table: Table, seeds: Sequence[int]) -> Comparison:
    """A comparison in the mean over seeds: both sides' means and whether it holds; None if it cannot tell."""
    left, sign, right = expressions.comparison(comparison, comparison)
    try:
        sides = [
            math.fsum(expressions.evaluate(side, table, seed) for seed in seeds) / len(seeds) for side in (left, right)
        ]
    except (Missing, ZeroDivisionError) as missing:
        return Comparison(text=comparison, values=None, holds=None, reason=str(missing))
    return Comparison(text=comparison, values=sides, holds=expressions.COMPARE[sign](*sides), reason="")


def find(judged: Sequence[JudgedClaim]) -> list[JudgedClaim]:
    """The claims, with which exploratory ones may be called found: e-BH over all of them."""
    counted = {place: c.evidence for place, c in enumerate(judged) if not c.main and c.evidence is not None}
    marks = dict(zip(counted, sequences.e_bh(list(counted.values())), strict=True))
    return [c.model_copy(update={"found": marks.get(place)}) for place, c in enumerate(judged)]


def check(item: Check, table: Table, seeds: Sequence[int]) -> CheckResult:
    """A check, looked at in the mean over seeds."""
    return CheckResult(name=item.name, **vars(holds(item.holds, table, seeds)))


def compare(item: Published, table: Table, seeds: Sequence[int], scale: str) -> PublishedResult:
    """A published number beside ours; judged at full scale, where something tries to reach it, and if it is exact.

    matched: the 90% interval of our mean lies inside the tolerance around it, which noise makes harder, not easier;
    failed: it lies outside; else undecided.
    """
    compared = PublishedResult(**vars(item), verdict=NOT_RUN, ours=None, interval=None)
    values = [v for s in seeds if (v := table.get(item.stage, {}).get(item.metric, {}).get(s)) is not None]
    if not values or not all(math.isfinite(v) for v in values):
        return compared

    low, high = item.value - item.tolerance, item.value + item.tolerance
    ours = compared.ours = sequences.mean_of(values)
    if item.kind == "exact":
        compared.verdict = MATCHED if low <= ours <= high else FAILED
        return compared

    estimate = sequences.t_interval(values, alpha=0.1)
    bounded = math.isfinite(estimate.low)
    compared.interval = [estimate.low, estimate.high] if bounded else None
    if scale != "full":
        return compared

    compared.verdict = UNDECIDED
    if bounded and low <= estimate.low and estimate.high <= high:
        compared.verdict = MATCHED
    elif bounded and (estimate.low > high or estimate.high < low):
        compared.verdict = FAILED
    return compared
