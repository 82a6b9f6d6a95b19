"""What a paper's page is made of, in words and drawn, as its template lays it out. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from experiments.evidence import coverage
from experiments.pages import answers, display, hardware, replications

Facts = Sequence[tuple[str, str]]  # term, description


@dataclass(frozen=True)
class PublishedRow:
    """A number of the paper beside ours; `half` is half of our interval, empty where there is none."""

    stage: str
    metric: str
    value: str
    ours: str
    half: str
    verdict: str  # empty: not judged
    dataset: str
    protocol: str
    source: str


@dataclass(frozen=True)
class StageRow:
    """A stage in a table: a cell, mean and half of its interval, for each of the table's metrics."""

    name: str
    about: str
    stale: bool
    absent: str  # failed or not run, where it has no cells
    reason: str  # why
    cells: Sequence[tuple[str, str]]
    epochs: str
    parameters: str
    seconds: str


@dataclass(frozen=True)
class StageTable:
    """Stages that report the same metrics."""

    metrics: Sequence[str]
    stages: Sequence[StageRow]
    further: Sequence[StageTable] = ()  # the same stages with the metrics that this one has no room for


@dataclass(frozen=True)
class Figure:
    """Learning curves of a metric."""

    metric: str
    figure: Markup


@dataclass(frozen=True)
class Picture:
    """What a stage drew, as a `data:` address."""

    stage: str
    name: str
    data: str


@dataclass(frozen=True)
class Earlier:
    """An earlier record of a setting: when, which seeds, what was seen and why it ended."""

    at: str
    seeds: str
    commit: str
    verdicts: str
    why: str
    claims: Sequence[tuple[str, str, str]]  # name, verdict, difference


@dataclass(frozen=True)
class Section:
    """A recorded setting."""

    title: str
    anchor: str
    scale: str
    answer: answers.Answer
    terms: Mapping[str, str]  # the metrics of its main claim and preconditions, in words
    meanings: Mapping[str, str]  # those of its tables
    claims: Sequence[answers.ClaimRow]  # but the main one
    checks: Sequence[answers.ComparisonRow]
    published: Sequence[PublishedRow]
    facts: Facts
    more_data: Facts  # of stages that unfold
    tables: Sequence[StageTable]
    more_tables: Sequence[StageTable]  # stages that unfold
    seeds: int
    curves: Sequence[Figure]
    more_curves: Sequence[Figure]
    diagram: Markup
    pictures: Sequence[Picture]
    registered: str
    history: Sequence[Earlier]
    elsewhere: Sequence[display.Past]
    provenance: Facts
    cost: str
    stale: Sequence[str]  # the stages of its main claim that changed since
    stale_beside: Sequence[str]  # other stages that changed since, or were not run
    all_stale: bool
    commit: str
    commits: str  # the whole commit where there is one alone; else empty
    replication: replications.Replicated | None
    command: str


@dataclass(frozen=True)
class Planned:
    """What a paper that was never run will be judged by."""

    claims: Sequence[answers.ClaimRow]
    published: Sequence[PublishedRow]
    diagram: Markup
    command: str


@dataclass(frozen=True)
class SweepRow:
    """A setting of a sweep."""

    setting: str
    mean: str
    interval: str
    figure: str
    failed: Sequence[str]


@dataclass(frozen=True)
class SweepTable:
    """A sweep that was run here."""

    name: str
    scale: str
    objective: str
    rows: Sequence[SweepRow]


@dataclass(frozen=True)
class Unrecorded:
    """A setting without a record, and the command that runs it."""

    name: str
    about: str
    command: str


@dataclass(frozen=True)
class Page(display.About):
    """A paper's page: its recorded settings, or what it will be judged by."""

    entries: Sequence[Section]
    planned: Planned | None
    sweeps: Sequence[SweepTable]
    counted: Sequence[PublishedRow]
    covers: Sequence[coverage.Row]
    covered: str
    cards: Sequence[hardware.CardTable]
    unrecorded: Sequence[Unrecorded]
    bibtex: str
    code: str  # the file of the paper's method
    address: str  # of this project
    documents: Mapping[str, str]  # page of the documentation -> where it leads, see report.documents
