"""What results/<key>.json holds, as classes. Imports no torch.

A field without a default is always written, also where it is null; one with a default only where it says something
else. Times are ISO 8601 with their zone; seconds are of the wall clock unless their name says CPU.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from experiments.common.errors import InputError
from experiments.config.claims import Check, Claim, Published
from experiments.config.expressions import Table
from experiments.config.schema import Outcome
from experiments.evidence import words

FORMAT = 2  # of the files; 1 had a list of seeds' values for each metric
MOST_TEXT = 20_000  # letters of one text
MOST_SEEDS = 10_000
MOST_SIZE = 1e100  # of a number that a claim states
MOST_ITEMS = 10_000  # of one list or mapping, curves' points among them

VERDICTS = frozenset(value for name, value in vars(words).items() if name.isupper() and isinstance(value, str))


def _check_verdict(word: str) -> str:
    if word not in VERDICTS:
        raise ValueError(f"{word[:60]!r} is no verdict; expected one of {', '.join(sorted(VERDICTS))}")
    return word


def _check_number(value: int | float) -> int | float:
    if not -MOST_SIZE < value < MOST_SIZE:
        raise ValueError(f"expected a finite number, got {str(value)[:60]}")
    return value


Word = Annotated[str, AfterValidator(_check_verdict)]
Number = Annotated[int | float, AfterValidator(_check_number)]  # as a paper's file writes it: 1 stays 1
Seeds = Annotated[list[int], Field(max_length=MOST_SEEDS)]
Values = Annotated[list[float | None], Field(max_length=MOST_SEEDS)]  # one for each seed; None where it did not run
Interval = Annotated[list[float], Field(min_length=2, max_length=2)]
Names = Annotated[list[str], Field(max_length=MOST_ITEMS)]
Setting = str | list[str] | None
Fact = str | int | float | list[str] | None  # of a machine or a package


class Part(BaseModel):
    """A part of a record: no key beside its own, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True, str_max_length=MOST_TEXT)

    @model_validator(mode="before")
    @classmethod
    def _know_every_key(cls, value: Any) -> Any:
        """Raises ValueError with the nearest key for one that does not exist."""
        for key in value if isinstance(value, Mapping) else ():
            if key not in cls.model_fields:
                close = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                raise ValueError(f"key {key!r} does not exist" + (f"; did you mean {close[0]!r}?" if close else ""))
        return value

    def plain(self) -> dict[str, Any]:
        """As JSON holds it: without what has its default."""
        return self.model_dump(exclude_defaults=True)


def first_mistake(error: ValidationError) -> str:
    """The first of what is wrong with a part of a record, with where it stands."""
    first = error.errors(include_url=False)[0]
    said = first["msg"].removeprefix("Value error, ")
    place = ".".join(map(str, first["loc"]))
    return ": ".join(filter(None, [place, said[:1].lower() + said[1:]]))


class Code(Part):
    """Of one commit, or of several in one text; dirty where files differed from it, None where git did not say."""

    commit: str | None
    dirty: bool | None


class Hardware(Part):
    cpu: str
    cores: int
    system: str
    gpus: Names = []


class Provenance(Part):
    """When, with what code and on what machine the stages of an entry ran.

    Attributes:
        threads: of one stage.
        seconds: of all stages and seeds together, by the wall clock.
        cpu_seconds: likewise, of all their processes' CPU time; None where a stage's was not measured.
    """

    written: str
    code: Code
    versions: dict[str, str]
    hardware: Hardware
    threads: int | None = None
    seconds: float
    cpu_seconds: float | None = None


class Registration(Part):
    """Under what an entry's seeds run, fixed before the first of them.

    Attributes:
        hash: twelve hex digits, see registration.digest; None of one that came before there were any.
        at, commit, dirty: when it was made, and with which code.
        stream: which seeds follow from it; 0 where they were given by hand.
        why: it replaced an earlier one.
        seen: its claims were written after its seeds had run.
        by_hand: its seeds or settings were chosen by whoever ran it.
        filed: it is a file that was committed before its first seed (see registrations), of this hash, from which its
            seeds follow; registrations of the earlier rule came into history together with their results.
        rewritten: further hashes of the same experiment, from when its configuration was written otherwise.
    """

    hash: str | None
    at: str | None
    commit: str | None
    dirty: bool | None = None
    stream: int
    why: str = ""
    seen: bool = False
    by_hand: bool = False
    filed: bool = False
    rewritten: Names = []

    def binds(self, digest: str) -> bool:
        """Whether this is the registration of a configuration with that digest."""
        return digest == self.hash or digest in self.rewritten


class Verdict(Part):
    """A claim's verdict in short."""

    main: bool
    verdict: str
    difference: float | None
    interval: Interval | None


class HistoryItem(Part):
    """What stays of an entry that was recorded anew, and why it was."""

    registered: Registration
    seeds: Seeds
    verdicts: dict[str, Verdict]
    commit: str | None
    at: str | None
    why: str


class Elsewhere(Part):
    """What another machine found under the same registration; differs: what -> [recorded, there]."""

    hardware: Hardware
    differs: dict[str, list[Fact]] = {}
    commit: str | None
    at: str
    seeds: Seeds
    claims: dict[str, Verdict]


class Joined(Part):
    """Seeds that ran on another machine than the first ones."""

    seeds: Seeds
    hardware: Hardware
    versions: dict[str, str]


class Confirmation(Part):
    """A recorded seed of one stage that later code gave anew, to the last bit.

    Attributes:
        fingerprint: of the stage with the later code.
        numbers: how many were compared.
        against: where the record's machine was another one, the commit whose code gave the numbers on this `cpu`.
    """

    fingerprint: str
    numbers: int
    seed: int
    commit: str | None
    at: str
    against: str | None = None
    cpu: str | None = None


class Dataset(Part):
    name: str
    source: str
    identity: str
    split: str
    sizes: dict[str, int]


class Curve(Part):
    """A logged metric by epoch, over seeds: lists of one length."""

    epoch: Annotated[list[float], Field(max_length=MOST_ITEMS)]
    mean: Annotated[list[float], Field(max_length=MOST_ITEMS)]
    low: Annotated[list[float], Field(max_length=MOST_ITEMS)]
    high: Annotated[list[float], Field(max_length=MOST_ITEMS)]

    @model_validator(mode="after")
    def _fits(self) -> Curve:
        if len({len(self.epoch), len(self.mean), len(self.low), len(self.high)}) > 1:
            raise ValueError("epoch, mean, low and high: expected lists of one length")
        return self


class StageRecord(Part):
    """One stage over an entry's seeds.

    Attributes:
        fingerprints, seconds, cpu_seconds: one for each seed of the entry; None where the stage did not run or, of
            CPU time, where it was not measured.
        metrics: name -> one value for each seed; empty where a seed of the first look did not finish.
        failed: why a seed did not finish; may be empty.
        batch: global, devices and reference.
        peak_memory_mb: MiB.
        content: a hash of its data files; empty where it reads none.
        under: hashes of the registrations under which its seeds ran, as their manifests say, or `none` for a run
            without; empty where they ran before manifests said so.
    """

    about: str
    fit: bool
    needs: Names
    fingerprints: Annotated[list[str | None], Field(max_length=MOST_SEEDS)]
    metrics: Annotated[dict[str, Values], Field(max_length=MOST_ITEMS)]
    failed: str = ""
    seconds: Values
    cpu_seconds: Values = []
    epochs: int | None
    parameters: int | None
    precision: str | None
    batch: dict[str, int | None] | None
    learning_rates: list[float] | None
    peak_memory_mb: int | None
    switches: Names = []
    data: Dataset | None
    content: str = ""
    under: Names = []
    curves: dict[str, Curve]

    def total_seconds(self) -> float:
        """Of all seeds, by the wall clock."""
        return sum(value for value in self.seconds if value is not None)

    def total_cpu_seconds(self) -> float | None:
        """Of all seeds; None unless it was measured wherever the stage ran."""
        ran = [value is not None for value in self.seconds]
        measured = [value is not None for value in self.cpu_seconds] or [False] * len(ran)
        return sum(value for value in self.cpu_seconds if value is not None) if ran == measured else None


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


class Restart(Part):
    """A further try of a seed in which an arm that the main claim compares was dead: all its stages with another seed.

    Attributes:
        of: the seed of the entry.
        attempt: which further try this is, from 1.
        seed: what it ran with.
        fingerprints, seconds: by stage; None where it did not finish.
        metrics: stage -> metric -> value; nothing of a stage that did not finish.
        under: as of a stage's record.
    """

    of: int
    attempt: Annotated[int, Field(ge=1)]
    seed: int
    fingerprints: Annotated[dict[str, str | None], Field(max_length=MOST_ITEMS)]
    seconds: Annotated[dict[str, float | None], Field(max_length=MOST_ITEMS)]
    metrics: Annotated[dict[str, dict[str, float]], Field(max_length=MOST_ITEMS)]
    under: Names = []

    def table(self) -> Table:
        """Its metrics under its own seed: stage -> metric -> seed -> value."""
        return {
            stage: {metric: {self.seed: value} for metric, value in values.items()}
            for stage, values in self.metrics.items()
        }


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
    The others are those of experiments.config.claims.Claim.
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
        named = {"": self.per_seed} | {item.name: item.per_seed for item in self.against}
        return named | {f"{p.name}: {key}": column for p in self.parts for key, column in p.differences().items()}

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


class Replication(Part):
    """The main claim on fresh seeds that each drew a recipe of their own (see experiments.config.vary).

    Attributes:
        registered: hash of the registration that is replicated.
        drawn: of each seed, knob -> factor or value.
        metrics: stage -> metric of the main claim -> one value for each seed.
        claim: the main claim, judged by these seeds.
        restarts: further tries of seeds in which an arm was dead.
        word: replicated, not replicated, open or not applicable.
    """

    registered: str
    seeds: Seeds
    drawn: Annotated[list[dict[str, Any]], Field(max_length=MOST_SEEDS)]
    metrics: Annotated[dict[str, dict[str, Values]], Field(max_length=MOST_ITEMS)]
    claim: JudgedClaim
    word: str
    stopped: str = ""
    restarts: Annotated[list[Restart], Field(max_length=MOST_SEEDS)] = []


class Entry(Part):
    """Everything known about one setting of a paper.

    Attributes:
        looked: seeds, from the first, that every stage ran for; later ones may have the main claim's stages alone.
        overrides: what the user gave beyond paper, scale and variant.
        place: of that, where it ran: the trainer and its devices, which are in fingerprints and in no registration.
        stopped: why no further seed was run.
        restarts: further tries of seeds in which an arm of the main claim was dead; `stages` has the first ones.
        next: a registration that has begun and has no finished record yet.
        seal: a hash of all the rest, see results.seal.
    """

    scale: str
    variant: str | None
    about: str
    seeds: Seeds
    looked: int
    overrides: Names
    place: Names = []
    registered: Registration
    next: Registration | None = None
    stopped: str = ""
    claims: list[JudgedClaim]
    checks: list[CheckResult]
    published: list[PublishedResult]
    stages: Annotated[dict[str, StageRecord], Field(max_length=MOST_ITEMS)]
    provenance: Provenance
    restarts: Annotated[list[Restart], Field(max_length=MOST_SEEDS)] = []
    joined: list[Joined] = []
    confirmed: dict[str, Confirmation] = {}
    replication: Replication | None = None
    history: list[HistoryItem]
    elsewhere: list[Elsewhere]
    seal: str = ""

    def main_claim(self) -> JudgedClaim | None:
        return next((claim for claim in self.claims if claim.main), None)

    def complete(self) -> bool:
        """Whether it answers its question: a verdict for the main claim, or for every claim where none is main."""
        main = self.main_claim()
        judged = [main] if main is not None else self.claims
        told = all(claim.verdict != words.NOT_RUN for claim in judged)
        return bool(self.seeds) and told and any(stage.metrics for stage in self.stages.values())

    def table(self) -> Table:
        """Its metrics: stage -> metric -> seed -> value."""
        return {
            name: {
                metric: {seed: value for seed, value in zip(self.seeds, values, strict=True) if value is not None}
                for metric, values in stage.metrics.items()
            }
            for name, stage in self.stages.items()
            if stage.metrics
        }

    def checks_asked(self) -> list[Check]:
        return [Check(item.name, item.text) for item in self.checks]

    def mean_seconds(self) -> dict[str, float]:
        """Of each stage that ran, over seeds, by the wall clock."""
        ran = {name: [v for v in stage.seconds if v is not None] for name, stage in self.stages.items()}
        return {name: sum(values) / len(values) for name, values in ran.items() if values}

    def verdicts(self) -> dict[str, Verdict]:
        """Each claim's, in short."""
        return {claim.name: claim.short() for claim in self.claims}


class Record(Part):
    """A paper's results file."""

    key: str
    title: str
    arxiv: str | None
    about: str
    deviations: list[dict[str, str | int | float | bool | None]]
    entries: dict[str, Entry]
