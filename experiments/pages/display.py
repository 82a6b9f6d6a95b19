"""What is shown of an entry: its answer, claims, checks, published numbers and stages, as rows with their words.

Nothing here knows a record: `view` reads one into these classes. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.common.plain import Plain
from experiments.config import expressions
from experiments.evidence import words
from experiments.evidence.judged import PublishedDifference
from experiments.evidence.ran import Curve, Dataset, Hardware
from experiments.evidence.records import Registration
from experiments.pages import numbers

STALE = "stale"
NOT_JUDGED = "not judged"
SYMBOLS = {  # a verdict is a symbol and a word; a colour only repeats them
    words.SUPPORTED: "✓",
    words.HOLDS: "✓",
    words.REFUTED: "✗",
    words.FAILS: "✗",
    words.NO_GAIN: "=",
    words.EFFECT_ONLY: "◐",
    words.UNDECIDED: "≈",
    words.UNTESTED: "⊘",
    words.MATCHED: "✓",
    words.FAILED: "✗",
    words.NOT_RUN: "○",
    STALE: "↻",
}
FIRST = ("test/top1", "test/top5", "test/ece", "test/nll")  # of a stage's metrics, where it has them


@dataclass(frozen=True)
class About:
    """What a page says of a paper in words: from its file, and `together` from its record."""

    key: str
    title: str
    arxiv: str | None
    about: str
    venue: str
    released: str  # where the authors' code is
    finding: str
    deviations: Sequence[Plain]  # each as config.summary.Deviation says
    together: str  # the main claim over all settings that ask it, in a sentence


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
    published: PublishedDifference | None
    needed: int | None = None
    found: bool | None = None  # among the exploratory claims, all looked at together
    requires: Sequence[Comparison] = ()
    restarts: str = ""  # which seeds started again since an arm was dead; empty where none did
    rows: Sequence[Claim] = ()
    is_heading: bool = False  # an outcome whose comparisons are the rows that follow: its numbers are the first's

    @property
    def span(self) -> str:
        return numbers.span(self.difference, self.interval, self.unit)

    @property
    def paper_says(self) -> str:
        """The published difference and where it stands; empty where the paper reports none."""
        if self.published is None:
            return ""
        return f"{self.published.difference:+g} {self.unit}, {self.published.source}"

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
    curves: Mapping[str, Curve]
    seconds: Sequence[float]
    failed: str
    data: Dataset | None
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
    hardware: Hardware
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
    registered: Registration
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
