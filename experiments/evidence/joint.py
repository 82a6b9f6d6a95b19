"""One verdict from several comparisons, or from several outcomes. Imports no torch.

Rivals. A claim may be held against a baseline and against rivals: arms without the paper's idea that might show the
same effect. Each comparison is judged by the same rule, with the same margin and worth; together, first that fits:

    each is supported                                            supported
    the baseline's is refuted, or no gain                        the same word
    the baseline's is supported, a rival's no gain or refuted    effect only
    otherwise                                                    undecided

A rival that is beaten by less than is worth the name is beaten: what the rule calls supported against a baseline, it
calls so against a rival, and the reason says by how little. The largest of several noisy rivals is never taken.

- `supported` is wrong where a single comparison does not hold, and then that comparison is wrong too: at 0.05 each, an
  intersection-union needs no correction. Its evidence is the smallest of all, which is an e-value wherever one is.
- `refuted` and `no gain` are the baseline's alone, and so is their evidence.
- `effect only` needs one rival of several, so that its errors add up over rivals: each at most 0.05. That is an error
  against the paper's idea and never for it. Its evidence is the smaller of the baseline's support and the mean over all
  rivals of the evidence against a difference worth the name: means of e-values are e-values, largest ones are not.

Several outcomes. Supported where each is; refuted where one is; while one is open, undecided; else the weakest of no
gain and effect only. Errors of `supported` need no correction, those of `refuted` add up over outcomes. The evidence
against is the mean over outcomes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from experiments.evidence.judged import JudgedClaim
from experiments.evidence.rules import MOST_EVIDENCE, RULES, Judgement, rule_of
from experiments.evidence.words import (
    EFFECT_ONLY,
    FAILS,
    HOLDS,
    NO_GAIN,
    NOT_RUN,
    REFUTED,
    SUPPORTED,
    UNDECIDED,
)

BEATEN = (SUPPORTED, HOLDS)
UNBEATEN = (REFUTED, FAILS, NO_GAIN)


def of_comparisons(against: Mapping[str, Judgement]) -> Judgement:
    """The verdict of a claim, with the baseline's difference and interval.

    Args:
        against: by name, the judgement of the baseline's comparison first, then of each rival's.
    """
    baseline, *rivals = against.values()
    evidence = _smallest([item.evidence for item in against.values()])
    if not rivals:
        return baseline
    unbeaten = {name: item for name, item in list(against.items())[1:] if item.verdict in UNBEATEN}

    if all(item.verdict in BEATEN for item in against.values()):
        small = [f"against {name} {item.reason}" for name, item in against.items() if item.reason]
        return replace(baseline, reason=", ".join(small), evidence=evidence)
    if baseline.verdict in UNBEATEN:
        return replace(baseline, evidence=evidence)
    if baseline.verdict in BEATEN and unbeaten:
        told = ", ".join(f"{item.verdict} against {name}" for name, item in unbeaten.items())
        return replace(baseline, verdict=EFFECT_ONLY, reason=told, needed=None, evidence=evidence)

    # Where a rival is not beaten, the baseline alone decides what is said.
    asked = dict(list(against.items())[:1]) if unbeaten else against
    waiting = {name: item for name, item in asked.items() if item.verdict == UNDECIDED}
    name = _furthest(waiting)
    reason = f"against {name}: {waiting[name].reason}"
    return replace(baseline, verdict=UNDECIDED, reason=reason, needed=waiting[name].needed, evidence=evidence)


def of_outcomes(parts: Sequence[JudgedClaim]) -> Judgement:
    """The verdict of a claim about several outcomes, with the difference and interval of the first.

    Raises ValueError with the reason where one of them cannot be judged.
    """
    for part in parts:
        if part.verdict == NOT_RUN:
            raise ValueError(f"{part.name}: {part.reason}")
    first = parts[0]
    assert first.difference is not None
    by_name = {part.name: part for part in parts}
    exact = not any(RULES[part.kind].has_chance for part in parts)
    evidence = None if exact else _smallest([_support_of(part) for part in parts])
    told = Judgement(first.difference, first.interval, SUPPORTED, evidence=evidence)

    refuted = [f"{part.name} {part.verdict}" for part in parts if part.verdict in (REFUTED, FAILS)]
    if refuted:
        return replace(told, verdict=FAILS if exact else REFUTED, reason=", ".join(refuted))
    waiting = {name: part for name, part in by_name.items() if part.verdict == UNDECIDED}
    if waiting:
        name = _furthest(waiting)
        reason = f"{name}: {waiting[name].reason}"
        return replace(told, verdict=UNDECIDED, reason=reason, needed=waiting[name].needed)
    for word in (NO_GAIN, EFFECT_ONLY):
        named = [part.name for part in parts if part.verdict == word]
        if named:
            return replace(told, verdict=word, reason=", ".join(f"{name} {word}" for name in named))
    small = [f"{part.name} {part.reason}" for part in parts if part.reason]
    return replace(told, verdict=HOLDS if exact else SUPPORTED, reason=", ".join(small))


def evidence_against(judged: JudgedClaim) -> float:
    """E-value against "each outcome differs from its baseline by what is worth the claim"; 0 where there is none."""
    if not any(RULES[kind].has_chance for kind in judged.kinds()):
        return 0.0
    if judged.parts:
        failed = [MOST_EVIDENCE if part.verdict == FAILS else evidence_against(part) for part in judged.parts]
        return math.fsum(failed) / len(failed)
    return _against(judged, next(iter(judged.claim().against())))


def evidence_for_effect_only(judged: JudgedClaim) -> float:
    """E-value against "a baseline is not beaten, or each rival is, by what is worth the claim"; 0 without rivals."""
    parts = judged.parts or [judged]
    rivals = [_against(part, item.name) for part in parts for item in part.against[1:]]
    if not rivals:
        return 0.0
    beaten = _smallest([_support_of(part, baseline_alone=True) for part in parts])
    return min(beaten or 0.0, math.fsum(rivals) / len(rivals))


def _against(judged: JudgedClaim, name: str) -> float:
    """E-value against a difference worth the claim, of one comparison."""
    column = next((item.per_seed for item in judged.against if item.name == name), judged.per_seed)
    rule = rule_of(judged.claim().against()[name])
    return (rule.evidence_against(column) or 0.0) if len(column) > 1 else 0.0


def _support_of(judged: JudgedClaim, baseline_alone: bool = False) -> float | None:
    """Evidence for an outcome; without chance there is no doubt, either way. None where its kind has none."""
    if not RULES[judged.kind].has_chance:
        return MOST_EVIDENCE if judged.verdict in (*BEATEN, EFFECT_ONLY) else 0.0
    if not baseline_alone or not judged.against:
        return judged.evidence
    return rule_of(next(iter(judged.claim().against().values()))).evidence(judged.per_seed)


def _smallest(evidence: Sequence[float | None]) -> float | None:
    """None where one of them has none."""
    there = [value for value in evidence if value is not None]
    return min(there) if len(there) == len(evidence) else None


def _furthest(waiting: Mapping[str, Judgement] | Mapping[str, JudgedClaim]) -> str:
    """Of what is open, what needs the most seeds, or has none in sight."""
    return max(waiting, key=lambda name: waiting[name].needed or math.inf)
