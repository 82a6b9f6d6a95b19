"""What results/<key>.json holds, as classes: a paper's entries, each one setting with its registration. No torch.

What ran stands in `ran`, what was judged in `judged`; how all of it is read and written in `part`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from experiments.config.comparisons import Check
from experiments.config.expressions import Table
from experiments.config.vary import Drawn
from experiments.evidence import words
from experiments.evidence.judged import CheckResult, JudgedClaim, PublishedResult, Verdict
from experiments.evidence.part import MOST_ITEMS, MOST_SEEDS, Fact, Names, Part, Seeds, Values
from experiments.evidence.ran import Confirmation, Hardware, Joined, Provenance, StageRecord

FORMAT = 2  # of the files; 1 had a list of seeds' values for each metric


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
    drawn: Annotated[list[Drawn], Field(max_length=MOST_SEEDS)]
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
        """Its metrics: stage -> metric -> seed -> value. Of a stage that did not run none, so that a mean over `arm_*`
        without one of its arms is missing, too; what ran and measures nothing is left out."""
        return {
            name: {
                metric: {seed: value for seed, value in zip(self.seeds, values, strict=True) if value is not None}
                for metric, values in stage.metrics.items()
            }
            for name, stage in self.stages.items()
            if stage.metrics or not any(stage.fingerprints)
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
