"""From recorded metrics to verdicts. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from experiments.config import expressions
from experiments.config.comparisons import Check, Claim
from experiments.config.expressions import Missing, Table
from experiments.config.published import Published
from experiments.evidence import joint, rules, sequences
from experiments.evidence.judged import (
    Against,
    CheckResult,
    Comparison,
    JudgedClaim,
    PublishedDifference,
    PublishedResult,
    SeedsThatHold,
)
from experiments.evidence.words import FAILED, FAILS, HOLDS, MATCHED, NOT_RUN, UNDECIDED, UNTESTED

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

    The main claim is judged by all seeds, another one by those, in order, that have all its stages. How comparisons
    with rivals and several outcomes are joined stands in `joint`.
    """
    judged = _before(claim, outcomes)
    try:
        paired, columns = _differences(claim, table, seeds, looked)
    except Missing as missing:
        judged.reason = str(missing)
        return judged

    judged.seeds = paired
    judged.requires = [holds(text, table, paired) for text in claim.requires]
    judged.requires_each = [holds_in(text, claim.share_of_seeds, table, paired) for text in claim.requires_each]
    try:
        judged = _joint(claim, judged, table) if claim.all else _compared(claim, judged, columns, outcomes)
    except ValueError as error:
        judged.reason = str(error)
        return judged

    absent = [item.said() for item in judged.requires if not item.holds]
    absent += [item.said() for item in judged.requires_each if item.verdict in (FAILS, NOT_RUN)]
    if absent:
        judged.verdict = UNTESTED
        judged.reason = f"the mechanism is absent: {'; '.join(absent)}"
        judged.needed = None
    return judged


def _before(claim: Claim, outcomes: rules.Outcomes | None) -> JudgedClaim:
    """A claim and its rule, before any seed."""
    first = claim.parts()[0]
    rule, refuted_by = _in_words(claim)
    if claim.dead:
        rule += f"; where an arm has {claim.dead}, all arms of that seed start again together, at most twice"
    return JudgedClaim(
        name=claim.name,
        main=claim.main,
        asked_by=claim.asked_by,
        kind=first.kind,
        better=first.better,
        than=_plain(claim.shown().than),
        lower_is_better=first.lower_is_better,
        unit=first.unit,
        margin=first.margin,
        worth=first.worth,
        within=first.within,
        range=list(first.range) if first.range is not None else None,
        test_over_train=first.test_over_train,
        rule=rule,
        refuted_by=refuted_by,
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
        requires_each=[_unseen(text, claim.share_of_seeds) for text in claim.requires_each],
        against=[_not_compared(name, each) for name, each in claim.against().items() if name],
        parts=[_before(part, None) for part in claim.parts()] if claim.all else [],
        dead=claim.dead,
    )


def _not_compared(name: str, claim: Claim) -> Against:
    than = _plain(claim.than)
    return Against(name=name, than=than, per_seed=[], difference=None, interval=None, verdict=NOT_RUN)


def _unseen(comparison: str, share: float) -> SeedsThatHold:
    return SeedsThatHold(text=comparison, share=share, held=0, fails_in=[], interval=None, verdict=NOT_RUN)


def _in_words(claim: Claim) -> tuple[str, str]:
    """What supports a claim and what refutes it."""
    if claim.all:
        supports, refutes = [], []
        for part in claim.parts():
            support, refute = _in_words(part)
            supports.append(f"{part.name}: {support}")
            refutes.append(f"{part.name}: {refute}")
        return "; ".join(supports), f"one of them, {'; '.join(refutes)}"

    (_, baseline), *rivals = claim.against().items()
    rule = rules.rule_of(baseline)
    others = [f"against {name}, {rules.rule_of(rival).words()}" for name, rival in rivals]
    return "; ".join([rule.words(), *others]), rule.refuted_by()


def _compared(
    claim: Claim, judged: JudgedClaim, columns: Mapping[str, list[float]], outcomes: rules.Outcomes | None
) -> JudgedClaim:
    """A claim judged against its baseline and its rivals. Raises ValueError where the values do not fit the kind."""
    judged.per_seed = next(iter(columns.values()))
    asked = claim.against()
    judgements = {name: rules.rule_of(asked[name]).judge(column, outcomes) for name, column in columns.items()}
    judged = judged.model_copy(update=vars(joint.of_comparisons(judgements)))
    for item in judged.against:
        item.per_seed = columns[item.name]
        item.difference = judgements[item.name].difference
        item.interval = judgements[item.name].interval
        item.verdict = judgements[item.name].verdict
        item.reason = judgements[item.name].reason
    return judged


def _joint(claim: Claim, judged: JudgedClaim, table: Table) -> JudgedClaim:
    """A claim about several outcomes, each judged by the same seeds. Raises ValueError where one cannot be."""
    seeds = judged.seeds
    judged.parts = [judge(part, table, seeds, len(seeds)) for part in claim.parts()]
    judged.per_seed = list(judged.parts[0].per_seed)
    return judged.model_copy(update=vars(joint.of_outcomes(judged.parts)))


def _plain(than: float | str | Mapping[str, float | str]) -> float | str:
    assert not isinstance(than, Mapping)
    return than


def _differences(
    claim: Claim, table: Table, seeds: Sequence[int], looked: int
) -> tuple[list[int], dict[str, list[float]]]:
    """The seeds that a claim is judged by, and by name of a comparison the difference of each of them.

    Raises Missing if a seed lacks that the claim must have.
    """
    comparisons = {
        f"{number} {name}" if claim.all else name: each
        for number, part in enumerate(claim.parts())
        for name, each in part.against().items()
    }
    columns: dict[str, list[float]] = {name: [] for name in comparisons}
    paired = []
    if not seeds:
        raise Missing("no seed has run")
    for position, seed in enumerate(seeds):
        try:
            row = {name: _difference(each, table, seed) for name, each in comparisons.items()}
        except Missing:
            if claim.main or position < looked:
                raise
            break
        paired.append(seed)
        for name, value in row.items():
            columns[name].append(value)
    return paired, columns


def _difference(claim: Claim, table: Table, seed: int) -> float:
    """Of one seed, positive where it speaks for the claim. Raises Missing."""
    better, than = claim.expression()
    difference = expressions.evaluate(better, table, seed) - expressions.evaluate(than, table, seed)
    return -1.0 * difference if claim.lower_is_better else 1.0 * difference


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


def holds_in(comparison: str, share: float, table: Table, seeds: Sequence[int]) -> SeedsThatHold:
    """In how many seeds a comparison holds.

    It fails once the beta-binomial interval of that share lies below the registered one. Until then it stands, since
    six seeds cannot show nine in ten; where it is seen in fewer than that, it is undecided and says so. A mechanism
    that is there in the registered share of seeds is called absent with a chance of 0.05 at most, however often one
    looks.
    """
    left, sign, right = expressions.comparison(comparison, comparison)
    told = _unseen(comparison, share)
    for seed in seeds:
        try:
            sides = [expressions.evaluate(side, table, seed) for side in (left, right)]
        except Missing as missing:
            told.reason = str(missing)
            return told
        if expressions.COMPARE[sign](*sides):
            told.held += 1
        else:
            told.fails_in.append(seed)

    estimate = sequences.share([1.0] * told.held + [0.0] * len(told.fails_in))
    told.interval = [estimate.low, estimate.high]
    told.verdict = HOLDS if estimate.mean >= share else UNDECIDED if estimate.high >= share else FAILS
    return told


def find(judged: Sequence[JudgedClaim]) -> list[JudgedClaim]:
    """The claims, with which exploratory ones may be called found: e-BH over all of them."""
    evidence = {place: c.evidence for place, c in enumerate(judged) if not c.main and c.evidence is not None}
    is_found = sequences.e_bh(list(evidence.values()))
    marks = dict(zip(evidence, is_found, strict=True))
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
