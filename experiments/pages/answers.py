"""What the report says of claims: the answer first, then rules and preconditions, as a template lays them out.

Everything is formatted here; nothing is left to compute in a template. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from experiments.pages import differences, display, numbers
from experiments.pages.numbers import fixed


@dataclass(frozen=True)
class ComparisonRow:
    """A precondition or check: what must hold, whether it does, and the numbers."""

    name: str
    text: str
    verdict: str
    told: str
    counted: str


@dataclass(frozen=True)
class ClaimRow:
    """A claim in words; `rows` are its comparisons with rivals, or its outcomes."""

    name: str
    anchor: str  # where it stands on the page, after the setting's
    main: bool
    asked_by: str
    verdict: str
    reason: str
    rule: str
    refuted_by: str
    worth: float | None
    unit: str
    difference: str
    interval: str
    figure: Markup
    seeds: int
    published: str
    found: bool | None
    requires: Sequence[ComparisonRow]
    restarts: str
    rows: Sequence[ClaimRow]

    @property
    def threshold(self) -> str:
        """The smallest difference worth the name, in words; empty where none is named."""
        if not self.worth:
            return ""
        unit = self.unit.removesuffix("s") if self.worth == 1 and self.unit == "points" else self.unit
        return f"{self.worth:g} {unit}".rstrip()

    def repeats(self, part: ClaimRow) -> bool:
        """Whether a comparison has the same numbers as the claim itself, as the first one of several has."""
        return (part.difference, part.interval) == (self.difference, self.interval)


@dataclass(frozen=True)
class Answer:
    """An entry's main claim as a reader wants it: the answer, how sure, from how many seeds."""

    scope: str
    claim: ClaimRow | None = None
    worth_reason: str = ""
    images: str = ""
    seen: bool = False

    @property
    def seeds(self) -> int:
        return self.claim.seeds if self.claim is not None else 0

    @property
    def requires(self) -> Sequence[ComparisonRow]:
        return self.claim.requires if self.claim is not None else ()


def answer(entry: display.Entry) -> Answer:
    """What an entry answers; only what it is about, where no claim is main."""
    if entry.main is None:
        return Answer(entry.scope)
    (row,) = claim_rows([entry.main])
    return Answer(entry.scope, row, worth_reason=entry.worth_reason, images=entry.images, seen=entry.seen)


def comparison(item: display.Comparison) -> ComparisonRow:
    """A precondition or check; its values, or why there are none."""
    values = " against ".join(f"{value:.4g}" for value in item.values)
    return ComparisonRow(item.name, item.text, item.verdict, values or item.reason, item.counted)


def claim_rows(claims: Sequence[display.Claim]) -> list[ClaimRow]:
    """Claims that stand together: those of the same metric have figures of the same range."""
    return [_claim_row(claim, claims) for claim in claims]


def _claim_row(claim: display.Claim, together: Sequence[display.Claim]) -> ClaimRow:
    interval = claim.interval or ()
    digits = numbers.decimals([claim.difference, *interval], two_from=1)
    figure = differences.draw_claim(claim, differences.span(claim, together)) if claim.per_seed else ""
    return ClaimRow(
        name=claim.name,
        anchor=re.sub(r"[^a-z0-9]+", "-", claim.name.lower()).strip("-")[:60],
        main=claim.main,
        asked_by=claim.asked_by,
        verdict=claim.verdict,
        reason=claim.reason,
        rule=claim.rule,
        refuted_by=claim.refuted_by,
        worth=claim.worth,
        unit=claim.unit,
        difference="" if claim.difference is None else fixed(claim.difference, digits, sign=True),
        interval=" to ".join(fixed(end, digits, sign=True) for end in interval),
        figure=Markup(figure),
        seeds=len(claim.seeds),
        published=claim.paper_says,
        found=claim.found,
        requires=[comparison(item) for item in claim.requires],
        restarts=claim.restarts,
        rows=_part_rows(claim),
    )


def _part_rows(claim: display.Claim) -> list[ClaimRow]:
    """Its comparisons or outcomes. Of an outcome with comparisons the verdict alone: its numbers are the first's."""
    rows = []
    for shown in claim.rows:
        row = _claim_row(shown, [claim, *claim.rows])
        bare = replace(row, difference="", interval="", reason="", figure=Markup())
        rows.append(bare if shown.is_heading else row)
    return rows
