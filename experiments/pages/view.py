"""What is shown of an entry: its answer, claims, checks, published numbers and stages, as rows with their words.

The renderers (terminal, HTML, W&B) only lay it out: whatever they need of a record is read here. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from pydantic import BaseModel

from experiments.config import expressions
from experiments.evidence import images, merge, records, results
from experiments.evidence.sequences import deviation
from experiments.evidence.words import (
    EFFECT_ONLY,
    FAILED,
    FAILS,
    HOLDS,
    MATCHED,
    NO_GAIN,
    NOT_RUN,
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    UNTESTED,
)
from experiments.pages import numbers, scope

STALE = "stale"
NOT_JUDGED = "not judged"
SYMBOLS = {  # a verdict is a symbol and a word; a colour only repeats them
    SUPPORTED: "✓",
    HOLDS: "✓",
    REFUTED: "✗",
    FAILS: "✗",
    NO_GAIN: "=",
    EFFECT_ONLY: "◐",
    UNDECIDED: "≈",
    UNTESTED: "⊘",
    MATCHED: "✓",
    FAILED: "✗",
    NOT_RUN: "○",
    STALE: "↻",
}
FIRST = ("test/top1", "test/top5", "test/ece", "test/nll")  # of a stage's metrics, where it has them


@dataclass(frozen=True)
class Comparison:
    """A precondition or check: what must hold, whether it does, and both sides in the mean over seeds.

    `counted` says in how many seeds it holds, where it is asked of each.
    """

    name: str
    text: str
    verdict: str
    values: Sequence[float]
    reason: str
    counted: str = ""


@dataclass(frozen=True)
class Claim:
    """A claim as it was judged; numbers in its unit.

    `rows` are its comparisons with baseline and rivals, or its outcomes, where there are several: each as a claim.
    """

    name: str
    main: bool
    verdict: str
    reason: str
    rule: str
    refuted_by: str
    asked_by: str
    unit: str
    worth: float | None
    margin: float
    within: float | None
    better: str
    than: str | float
    seeds: Sequence[int]
    per_seed: Sequence[float]
    difference: float | None
    interval: Sequence[float] | None
    published: Mapping[str, Any] | None
    needed: int | None = None
    found: bool | None = None  # among the exploratory claims, all looked at together
    requires: Sequence[Comparison] = ()
    rows: Sequence[Claim] = ()

    @property
    def span(self) -> str:
        return numbers.span(self.difference, self.interval, self.unit)

    @property
    def paper_says(self) -> str:
        """The published difference and where it stands; empty where the paper reports none."""
        if self.published is None:
            return ""
        return f"{self.published['difference']:+g} {self.unit}, {self.published['source']}"

    @property
    def metric(self) -> str:
        """What is compared, without the stage; empty where one side is arithmetic."""
        return self.better.partition("/")[2]


@dataclass(frozen=True)
class Published:
    """A number the paper reports beside ours; `verdict` is NOT_JUDGED where nothing tries to reach it."""

    stage: str
    metric: str
    value: float
    dataset: str
    protocol: str
    source: str
    ours: float | None
    interval: Sequence[float] | None
    verdict: str
    per_seed: Sequence[float | None]


@dataclass(frozen=True)
class Stage:
    """A stage's numbers over seeds: metrics and curves are empty where it did not finish for every seed."""

    name: str
    about: str
    needs: Sequence[str]
    fit: bool
    epochs: int | None
    parameters: int | None
    metrics: Mapping[str, Sequence[float | None]]
    curves: Mapping[str, Mapping[str, Sequence[float]]]
    seconds: Sequence[float]
    failed: str
    data: Mapping[str, Any] | None
    precision: str | None
    fingerprints: Sequence[str | None]
    switches: Sequence[str] = ()


@dataclass(frozen=True)
class Machine:
    """Where and with what an entry was computed: seconds of wall time, and of CPU time where it was measured."""

    commits: Sequence[str]
    dirty: bool | None
    written: str
    seconds: float
    cpu_seconds: float | None
    hardware: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def code(self) -> str:
        """The first ten digits of the commit, or of each if stages were trained with several; or that there is none."""
        return ", ".join(commit[:10] for commit in self.commits) or "no commit"


@dataclass(frozen=True)
class Past:
    """A line of an entry's history, or what another machine found: where or why, and verdicts with their numbers."""

    at: str
    seeds: Sequence[int]
    commit: str
    why: str
    machine: str
    differs: str
    claims: Sequence[tuple[str, str, str]]  # name, verdict, difference

    @property
    def verdicts(self) -> str:
        counts = Counter(verdict for _, verdict, _ in self.claims)
        return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


@dataclass(frozen=True)
class Entry:
    """One (paper, scale, variant) of a record."""

    scale: str
    variant: str | None
    about: str
    seeds: Sequence[int]
    overrides: Sequence[str]
    registered: records.Registration
    stopped: str
    claims: Sequence[Claim]
    checks: Sequence[Comparison]
    published: Sequence[Published]
    stages: Mapping[str, Stage]
    machine: Machine
    history: Sequence[Past]
    elsewhere: Sequence[Past]
    confirmed: Sequence[str]
    joined: Sequence[str]
    replication: str = ""  # what it says; empty where there is none to have
    scope: str = ""  # what its verdicts are about, in one line
    worth_reason: str = ""  # of the main claim
    images: str = ""  # its difference for new seeds and new test images, in a sentence

    @property
    def main(self) -> Claim | None:
        return next((claim for claim in self.claims if claim.main), None)

    @property
    def judged_metrics(self) -> set[str]:
        """The metrics that claims look at."""
        shown = [row for claim in self.claims for row in (claim, *claim.rows)]
        sides = [side for row in shown for side in (row.better, row.than)]
        return {metric.name for side in sides for metric in expressions.metrics(expressions.parse(side, "claim"))}

    @property
    def seen(self) -> bool:
        """Whether its claims were written after its seeds were seen."""
        return self.registered.seen

    def metrics_of(self, stage: str) -> list[str]:
        """Those of a stage's metrics that people look at: of the test, or judged by a claim."""
        names = [name for name in self.stages[stage].metrics if not name.endswith("/n")]
        judged = self.judged_metrics
        return [name for name in names if name.startswith("test/") or name in judged]

    def metrics(self, first: Sequence[str] = ()) -> list[str]:
        """metrics_of() all stages; those in `first` before others, then the usual ones."""
        names = dict.fromkeys(name for stage in self.stages for name in self.metrics_of(stage))

        def place(name: str) -> tuple[bool, int]:
            return name not in first, FIRST.index(name) if name in FIRST else len(FIRST)

        return sorted(names, key=place)

    @property
    def registration(self) -> str:
        """Under what it was recorded, in a sentence."""
        registered = self.registered
        if registered.by_hand:
            return "Run by hand: seeds or settings were chosen by whoever ran it"
        mark, day = registered.hash, (registered.at or "")[:10]
        if registered.seen:
            return (
                f"Judged by claims written after these seeds were seen (registration {mark}, {day}); "
                "its first registered seeds are yet to run"
            )
        if registered.filed:
            return f"Registration {mark} of {day}, a commit of its own before its first seed; its seeds follow from it"
        return f"Registration {mark} of {day}, from before registrations were commits; seed stream {registered.stream}"


def of(entry: records.Entry, declared: Mapping[str, Any] | None = None) -> Entry:
    """What is shown of an entry of a record.

    Args:
        declared: what its paper's file says now, or a resolved configuration.
    """
    stages = {name: _stage(name, item) for name, item in entry.stages.items()}
    return Entry(
        scale=entry.scale,
        variant=entry.variant or None,
        about=entry.about,
        seeds=entry.seeds,
        overrides=entry.overrides,
        registered=entry.registered,
        stopped=entry.stopped,
        claims=[claim(item) for item in entry.claims],
        checks=[_comparison(item.name, item) for item in entry.checks],
        published=[published(item, entry.scale, stages, len(entry.seeds)) for item in entry.published],
        stages=stages,
        machine=_machine(entry.provenance),
        history=[_past(item) for item in entry.history],
        elsewhere=[elsewhere(item) for item in entry.elsewhere],
        confirmed=_confirmed(entry.confirmed),
        joined=[_joined(item) for item in entry.joined],
        replication=_replication(entry),
        scope=_scope(entry, declared or {}),
        worth_reason=_worth_reason(entry, declared or {}),
    )


def _scope(entry: records.Entry, declared: Mapping[str, Any]) -> str:
    """As in `at mini+clean: digits, 400 for training, ...`."""
    data = results.data_of(entry)
    told = scope.of(entry, scope.told(declared, entry.scale, entry.variant, data))
    return f"at {results.title(entry.scale, entry.variant, data=data)}" + (f": {told}" if told else "")


def _worth_reason(entry: records.Entry, declared: Mapping[str, Any]) -> str:
    """Why the main claim's worth is what it is, where the paper's file still asks for the same."""
    main = entry.main_claim()
    if main is None:
        return ""

    def limits(claim: Mapping[str, Any]) -> tuple[Any, ...]:
        first = (claim.get("all") or [claim])[0]  # of several outcomes, what a record shows
        return claim["name"], first.get("worth"), first.get("within")

    asked = (main.name, main.worth, main.within)
    alike = (claim for claim in declared.get("claims") or [] if limits(claim) == asked)
    return next((str(claim.get("worth_reason") or "") for claim in alike), "")


def replication(found: records.Replication, recorded: records.JudgedClaim) -> str:
    """What a replication says, in a sentence: the word, the difference, and how seeds and recipes scatter."""
    shown = claim(found.claim)
    signs = sum((value > 0) == ((recorded.difference or 0) > 0) for value in found.claim.per_seed)
    spreads = [deviation(item.per_seed) for item in (found.claim, recorded) if len(item.per_seed) > 1]
    spread = ""
    if len(spreads) == 2:
        spread = f"; they scatter by {spreads[0]:.2g}, those of the fixed recipe by {spreads[1]:.2g}"
    return (
        f"{found.word} over recipes: {shown.verdict}, {shown.span}; {signs} of {len(found.seeds)} draws of recipe and "
        f"seed have the recorded sign{spread}"
    )


def _replication(entry: records.Entry) -> str:
    main = entry.main_claim()
    if entry.replication is not None and main is not None:
        return replication(entry.replication, main)
    return "not yet" if entry.registered.filed else ""


def two_way(found: images.TwoWay, unit: str) -> str:
    """The difference for new seeds and new test images, and what it varies with."""
    estimate = found.estimate
    span = numbers.span(estimate.mean, (estimate.low, estimate.high), unit)
    return (
        f"for new seeds and new test images: {span} (95%, one look, {numbers.count(estimate.n, 'seed')}); standard "
        f"deviation over seeds {found.seed:.2g}, over images {found.image:.2g}, of the rest {found.rest:.2g}"
    )


def claim(item: records.JudgedClaim) -> Claim:
    """A claim of a record's entry."""
    requires = [_comparison(required.text, required) for required in item.requires]
    requires += [_counted(required) for required in item.requires_each]
    shown = Claim(**{**_known(Claim, item), "requires": requires})
    return replace(shown, rows=[*_against(item, shown, "against "), *_outcomes(item)])


def _against(item: records.JudgedClaim, shown: Claim, before: str) -> list[Claim]:
    """A row for the comparison with the baseline and with each rival."""
    fixed = {"published": None, "needed": None, "found": None, "requires": ()}
    rows = []
    for compared in item.against:
        told = {"name": before + compared.name, **_known(Claim, compared, without=("name",))}
        rows.append(replace(shown, **{**fixed, **told}))
    return rows


def _outcomes(item: records.JudgedClaim) -> list[Claim]:
    """A row for each outcome, and for its comparisons."""
    rows: list[Claim] = []
    for part in item.parts:
        shown = replace(claim(part), rows=())
        rows += [shown, *_against(part, shown, f"{part.name}, against ")]
    return rows


def _known(kind: type, item: BaseModel, without: Sequence[str] = ()) -> dict[str, Any]:
    """Of an item of a record, what a row has."""
    return item.model_dump(include={field.name for field in fields(kind)} - {*without})


def _comparison(name: str, item: records.Comparison | records.CheckResult) -> Comparison:
    word = {True: HOLDS, False: FAILS, None: NOT_RUN}[item.holds]
    return Comparison(name, item.text, word, item.values or (), item.reason)


def _counted(item: records.SeedsThatHold) -> Comparison:
    """A precondition that is asked of each seed: in how many it holds, and in which it does not."""
    text = f"{item.text} in {100 * item.share:g}% of seeds"
    if item.interval is None:
        return Comparison(item.text, text, item.verdict, (), item.reason)
    low, high = item.interval
    counted = f"{item.held} of {item.held + len(item.fails_in)} seeds"
    lacking = f"; not in {', '.join(map(str, item.fails_in))}" if item.fails_in else ""
    reason = f"{counted}, 95% interval of the share {low:.2f} to {high:.2f}{lacking}"
    return Comparison(item.text, text, item.verdict, (), reason, counted)


def published(item: records.PublishedResult, scale: str, stages: Mapping[str, Stage], seeds: int) -> Published:
    """A published number of a record's entry."""
    stage = stages.get(item.stage)
    ours = stage.metrics.get(item.metric) if stage is not None else None
    is_judged = scale == "full" or item.kind == "exact"
    verdict = item.verdict if is_judged else NOT_JUDGED
    return Published(**{**_known(Published, item), "verdict": verdict, "per_seed": ours or [None] * seeds})


def _stage(name: str, item: records.StageRecord) -> Stage:
    ran = [value for value in item.seconds if value is not None]
    return Stage(**{**_known(Stage, item), "name": name, "seconds": ran})


def _machine(made: records.Provenance) -> Machine:
    commits = [commit for commit in (made.code.commit or "").split() if commit != "None"]
    hardware = made.hardware.plain()
    return Machine(commits, made.code.dirty, made.written, made.seconds, made.cpu_seconds, hardware, made.versions)


def _past(item: records.HistoryItem) -> Past:
    """An earlier record: when, why it ended, and what was seen."""
    commit = str(item.commit or "no commit")[:10]
    return Past(str(item.at)[:10], item.seeds, commit, item.why, "", "", _told(item.verdicts))


def elsewhere(item: records.Elsewhere) -> Past:
    """What another machine found under the same registration."""
    machine = f"{item.hardware.cpu}, {item.hardware.cores} cores"
    changes = [f"{name} {here} instead of {there}" for name, (there, here) in item.differs.items()]
    return Past(str(item.at)[:10], item.seeds, "", "", machine, ", ".join(changes), _told(item.claims))


def _told(judged: Mapping[str, records.Verdict]) -> list[tuple[str, str, str]]:
    """Claims by name, with verdict and difference in words."""
    rows = []
    for name, item in judged.items():
        told = "" if item.difference is None else f"{item.difference:+.2f}"
        if told and item.interval:
            told += f" ({item.interval[0]:+.2f} to {item.interval[1]:+.2f})"
        rows.append((name, item.verdict, told))
    return rows


def _confirmed(stages: Mapping[str, records.Confirmation]) -> list[str]:
    """What later code gave again, a sentence per commit: which seed, how many numbers, of which stages."""
    shown: dict[tuple[str, ...], dict[str, int]] = {}
    for name, item in stages.items():
        where = f" as {item.against[:10]} does on {item.cpu}" if item.against else ""
        key = (item.at[:10], str(item.commit)[:10], str(item.seed), where)
        shown.setdefault(key, {})[name] = item.numbers
    return [
        f"{at}, {commit}: seed {seed} run anew gave the same {sum(counts.values()):,} numbers{where}, "
        f"to the last bit; {', '.join(counts)}"
        for (at, commit, seed, where), counts in shown.items()
    ]


def _joined(item: records.Joined) -> str:
    """Which seeds were added elsewhere, to a record whose runs were not at hand."""
    seeds = ", ".join(map(str, item.seeds))
    return f"seeds {seeds} ran on {item.hardware.cpu}, torch {item.versions['torch']}, and joined the others"


def machine_differs(recorded: records.Entry, entry: records.Entry) -> str:
    """What of machine and packages is not the recorded one, in words; empty if nothing."""
    changes = merge.differing(entry.provenance, recorded.provenance)
    return ", ".join(f"{name} {here} (recorded: {there})" for name, (there, here) in changes.items())
