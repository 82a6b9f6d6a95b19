"""What was judged, as a record holds it: claims, preconditions, checks and published numbers. Imports no torch."""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError, model_validator

from experiments.common.errors import InputError
from experiments.config.comparisons import Claim, Outcome
from experiments.config.published import Published
from experiments.evidence import words
from experiments.evidence.part import (
    MOST_ITEMS,
    MOST_SEEDS,
    Interval,
    Number,
    Part,
    Seeds,
    Setting,
    first_mistake,
)

VERDICTS = frozenset(value for name, value in vars(words).items() if name.isupper() and isinstance(value, str))


def _check_verdict(word: str) -> str:
    if word not in VERDICTS:
        raise ValueError(f"{word[:60]!r} is no verdict; expected one of {', '.join(sorted(VERDICTS))}")
    return word


Word = Annotated[str, AfterValidator(_check_verdict)]


class Verdict(Part):
    """A claim's verdict in short."""

    main: bool
    verdict: str
    difference: float | None
    interval: Interval | None


class Comparison(Part):
    """A precondition: both sides' means over seeds, and whether it holds; None if that cannot be told."""

    text: str
    values: list[float] | None
    holds: bool | None
    reason: str

    def said(self) -> str:
        """The comparison, and what it is instead."""
        return f"{self.text} ({self.reason})" if self.values is None else f"{self.text} (it is {self.values[0]:.3g})"


class SeedsThatHold(Part):
    """A precondition that nearly every seed fulfils.

    Attributes:
        share: of seeds, registered.
        held: of how many seeds it holds, and `fails_in` which others there are.
        interval: the 95% interval of the share; None where nothing can be said.
        verdict: holds, at this share or above; undecided, below but not shown to be; fails; not run, for a reason.
    """

    text: str
    share: Number
    held: int
    fails_in: Seeds
    interval: Interval | None
    verdict: str
    reason: str = ""

    def said(self) -> str:
        """The comparison, and in how many seeds it holds."""
        count = f"in {self.held} of {self.held + len(self.fails_in)} seeds, registered are {100 * self.share:g}%"
        return f"{self.text} ({self.reason or count})"


class CheckResult(Part):
    """A comparison that is shown and is no evidence."""

    name: str
    text: str
    values: list[float] | None
    holds: bool | None
    reason: str


class PublishedDifference(Part):
    difference: Number
    source: str


class Against(Part):
    """A claim's comparison with its baseline or with a rival, and what its rule made of it.

    Attributes:
        name: what stands there, as in the paper's file.
        reason: what a reader should know of the verdict.
    The others are those of a claim.
    """

    name: str
    than: str | int | float
    per_seed: Annotated[list[float], Field(max_length=MOST_SEEDS)]
    difference: float | None
    interval: Interval | None
    verdict: Word
    reason: str = ""


class JudgedClaim(Part):
    """A claim with its rule, and what its rule made of the seeds.

    With rivals, `than`, `per_seed`, `difference` and `interval` are those of the baseline, and `against` has them of
    each comparison, the baseline's first. With several outcomes they are those of the first, and so are its unit, kind
    and limits. Verdict, reason, needed and evidence are of all together.

    Attributes:
        seeds, per_seed: the seeds that it was judged by, and the difference of each, in the claim's unit.
        difference, interval: their mean and its 95% interval; None where there is none.
        needed: about how many seeds would decide.
        evidence: e-value, at most 1e12.
        outcomes: of kind "images": pairs of a difference of single images and how many have it.
        found: of exploratory claims, whether e-BH over all of them lets it be called found.
        against: the comparisons, of a claim with rivals.
        parts: each of several outcomes, judged as a claim of its own.
        restarted, still_dead: seeds whose arms started again since one was dead, and those of them in which one was in
            the last try too.
        without_restarts: what the first tries alone would say; None where none started again.
    The others are those of experiments.config.comparisons.Claim.
    """

    name: str
    main: bool
    asked_by: str
    kind: str
    better: str
    than: str | int | float
    lower_is_better: bool
    unit: str
    margin: Number
    worth: Number | None
    within: Number | None
    range: list[Number] | None
    test_over_train: Number | None
    rule: str
    refuted_by: str
    published: PublishedDifference | None
    requires: list[Comparison]
    seeds: Seeds
    per_seed: Annotated[list[float], Field(max_length=MOST_SEEDS)]
    difference: float | None
    interval: Interval | None
    verdict: Word
    reason: str
    needed: int | None
    evidence: float | None
    outcomes: list[list[Number]] | None
    found: bool | None
    requires_each: list[SeedsThatHold] = []
    against: Annotated[list[Against], Field(max_length=MOST_ITEMS)] = []
    parts: Annotated[list[JudgedClaim], Field(max_length=MOST_ITEMS)] = []
    dead: str = ""
    restarted: Seeds = []
    still_dead: Seeds = []
    without_restarts: Verdict | None = None

    @model_validator(mode="after")
    def _can_be_asked(self) -> JudgedClaim:
        try:
            self.claim().sides(self.name[:60])
        except ValidationError as error:
            raise ValueError(first_mistake(error)) from error
        except InputError as error:
            raise ValueError(str(error)) from error
        if self.per_seed and len(self.seeds) != len(self.per_seed):
            raise ValueError(f"{len(self.per_seed)} differences for {len(self.seeds)} seeds")
        return self

    def claim(self) -> Claim:
        """What it was judged by."""
        told = {name: getattr(self, name) for name in Claim.__dataclass_fields__ if name in type(self).model_fields}
        told["published"] = self.published.model_dump() if self.published is not None else None
        told["requires"] = [item.text for item in self.requires]
        told["requires_each"] = tuple(item.text for item in self.requires_each)
        if self.requires_each:
            told["share_of_seeds"] = self.requires_each[0].share
        if self.against:
            told["than"] = {item.name: item.than for item in self.against}
        if self.parts:
            own = {each.name: each.default for each in fields(Outcome) if each.name != "name"}
            told |= own | {"all": [_outcome(part) for part in self.parts]}
        return Claim(**told)

    def kinds(self) -> set[str]:
        """The kinds of all that is judged."""
        return {part.kind for part in self.parts} or {self.kind}

    def differences(self) -> dict[str, list[float]]:
        """The differences of each seed, by outcome and by what is compared with."""
        columns = {"": self.per_seed}
        for item in self.against:
            columns[item.name] = item.per_seed
        for part in self.parts:
            columns |= {f"{part.name}: {name}": column for name, column in part.differences().items()}
        return columns

    def short(self) -> Verdict:
        return Verdict(main=self.main, verdict=self.verdict, difference=self.difference, interval=self.interval)


def _outcome(part: JudgedClaim) -> Outcome:
    claim = part.claim()
    return Outcome(**{each.name: getattr(claim, each.name) for each in fields(Outcome)})


class PublishedResult(Part):
    """A number that the paper reports, and ours: its mean over seeds and the mean's 90% interval."""

    stage: str
    metric: str
    value: Number
    dataset: str
    protocol: str
    source: str
    variant: Setting
    tolerance: Number
    kind: str
    scale: Setting
    verdict: Word
    ours: float | None
    interval: Interval | None

    def published(self) -> Published:
        return Published(**{name: getattr(self, name) for name in Published.__dataclass_fields__})
