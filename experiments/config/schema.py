"""What people may write in a paper's file, a recipe and a sweep, as classes. Imports no torch.

What stands in them is described beside this file: comparisons, published, networks, summary, stages, trials. Files are
checked as they stand, before anything is written out (experiments.config.recipes) or composed; what was composed is
checked again, since a command line may change every key. `python -m experiments.commands.schema` writes the same for
editors, as conf/schema/*.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from experiments.config.comparisons import Check, Claim
from experiments.config.networks import Counted, Pair
from experiments.config.published import PublishedRow
from experiments.config.stages import Stages
from experiments.config.summary import COUNTED, Covered, Deviation, Finding, printed
from experiments.config.trials import Grid, Knob
from experiments.config.written import (
    CLOSED,
    OPEN,
    Arxiv,
    Closed,
    Flag,
    FromZero,
    Key,
    Scale,
    Text,
    Whole,
    Written,
    choice_of,
    read,
)

Topic = choice_of(
    Literal[
        "architectures",
        "distillation",
        "generated images",
        "generation",
        "interpretability",
        "labels and evaluation",
        "medical images",
        "representations",
        "training and theory",
    ]
)
SomeStages = Annotated[list[Text], Field(min_length=1), Written("a list of stages")]


@dataclass(frozen=True, config=CLOSED)
class Variant(Closed):
    """A named list of overrides."""

    about: Text | None = None
    """What is different, in a few words."""
    scale: Scale | None = None  # type: ignore[valid-type]
    """The scale it is a variant of."""
    overrides: Sequence[Text] | None = None
    """Lines as on the command line."""
    like: Text | None = None
    """Another variant, whose overrides come first."""
    each: dict[str, list[Any]] | None = None
    """Lists by name: one variant for each combination; {name} stands for a value."""
    always: Flag = False
    """It runs whenever the paper is reproduced at its scale."""
    scope: Text | None = None
    """In place of the paper's scope at this scale."""

    @model_validator(mode="after")
    def _is_whole(self) -> Variant:
        lacking = [key for key in ("about", "scale", "overrides") if getattr(self, key) is None]
        if lacking and self.like is None:
            raise ValueError(f"{lacking[0]} is missing")
        return self


@dataclass(frozen=True, config=CLOSED)
class AllBut(Closed):
    """A group of all stages but some."""

    all_but: SomeStages
    """The stages that are left out."""


Group = SomeStages | AllBut


@dataclass(frozen=True, config=CLOSED)
class Settings(Closed):
    """Keys of conf/config.yaml that a file or a command line may set."""

    first: Whole = 6
    """Seeds before the first look."""
    most: Whole = 32
    """Seeds at which an undecided main claim is left so."""
    minutes: FromZero = 15
    """After which no further seeds are started."""
    threads: Whole = 1
    """Of the CPU for each stage."""
    checkpoint_seconds: FromZero = 30
    """A stage that trains longer than this is saved this often."""
    objective: Text | None = None
    """What searches look at: student/test/top1, arithmetic over such, or difference; nothing: what the main claim is
    about."""


def check_settings(config: Mapping[str, Any]) -> None:
    """Raises InputError for one of a resolved configuration's settings that cannot be."""
    names = [each.name for each in fields(Settings)]
    read(Settings, {name: config[name] for name in names if name in config})


@dataclass(frozen=True, kw_only=True, config=OPEN)
class Recipe(Settings):
    """conf/recipe/<paper>/<scale>.yaml: the numbers of a scale. Other keys are values that another line reads."""

    defaults: list[Text | dict[str, Text | list[Text]]] | None = None
    """What Hydra composes below this file."""
    data: Text | list[Text] | dict[str, Text | list[Text]] | None = None
    """Every stage's data: a name of conf/data, a view and its source, or such by stage, group or pattern."""
    stages: Stages | None = None
    """By name, group or pattern."""
    tune: Grid | None = None
    """What make tune tries, for all arms that the main claim compares."""
    vary: dict[str, Knob] | None = None
    """What make replicate draws anew for each seed, by name."""


@dataclass(frozen=True, config=CLOSED)
class OwnData(Closed):
    """What a paper's stages need besides plain labelled images, where these stand in place of its data."""

    overrides: list[Text] | None = None
    """Lines as on the command line. {classes}, {channels}, {side}, {pixels}, {mean} and {std} stand for numbers of the
    images, {names} for the list of their classes, {words} for these as one text with a blank before each, {identity}
    for the rows of an identity matrix of as many classes."""
    replaces: list[Text] | None = None
    """Its own generated images that own data replaces, by their whole names, besides the well-known sets."""
    needs: dict[Text, Text] | None = None
    """Keys that have to be said on the command line, as stages.*.data.hierarchy, and what each is."""
    classes: Whole | None = None
    """How many classes there have to be."""
    images: Whole | None = None
    """How many training images there have to be."""
    grey: Flag = False
    """Its networks or canvases take one channel: photos are made grey."""


@dataclass(frozen=True, kw_only=True, config=OPEN)
class PaperFile(Settings):
    """conf/paper/<key>.yaml: what a paper claims, and its stages. Other keys are values that another line reads."""

    key: Key
    """The file's own name."""
    title: Text
    """Of the paper."""
    arxiv: Arxiv
    """Its number there, in quotes."""
    claims: list[Claim]
    """The main claim first."""
    about: Text = ""
    """What the paper does, in two or three sentences."""
    released: Annotated[Text, Field(pattern=r"^([\w.-]+/[\w.-]+)?$"), Written("a repository, as owner/name")] = ""
    """The authors' own code on GitHub, as owner/name; nothing where none is known."""
    venue: Text = ""
    """Where it was published."""
    topic: Topic | None = None  # type: ignore[valid-type]
    """What the paper is about, by which the index filters."""
    finding: Finding | None = None
    """What was found over all recorded settings."""
    covers: list[Covered] | None = None
    """The paper's tables, figures and claims, and which of them are asked here."""
    scope: dict[Scale, Text] | None = None  # type: ignore[valid-type]
    """By scale: what a reader of a verdict should know of its data and networks besides their names and sizes."""
    groups: dict[str, Group] | None = None
    """Names for stages that share settings."""
    stages: Stages | None = None
    """The method and its baselines, by name."""
    checks: list[Check] | None = None
    """What must be so for a run to make sense."""
    published: list[PublishedRow] | None = None
    """Numbers the paper reports."""
    counted: list[Counted] | None = None
    """Sizes of networks that the paper prints."""
    variants: dict[str, Variant] | None = None
    """Other data, sizes and settings, by name."""
    deviations: list[Deviation] | None = None
    """Where paper, released code and this suite differ; on the report page."""
    bench: list[Pair] | None = None
    """Networks to time beside independent ones."""
    metrics: dict[Text, Text] | None = None
    """What its numbers are, in words with their unit: by <split>/<name>, or by a pattern with *, as test/acc_*."""
    own_data: Text | OwnData | None = None
    """Of `data=NAME`: why the question makes no sense on plain labelled images, or what it needs besides."""

    @model_validator(mode="after")
    def _asks_something(self) -> PaperFile:
        if not any(claim.main for claim in self.claims):
            raise ValueError("claims: none has main: true; expected it of the one that the paper is cited for")
        for claim in self.claims:
            if claim.main and (claim.worth or claim.within or claim.all) and not claim.worth_reason:
                raise ValueError(f"claims: {claim.name!r}: worth_reason is missing, why it is worth or within so much")
        return self

    @model_validator(mode="after")
    def _covers_what_it_quotes(self) -> PaperFile:
        rows = self.published or []
        items = [claim.name for claim in self.claims] + [check.name for check in self.checks or []]
        items += [row.source for row in rows]
        items += [COUNTED] * bool(self.counted)
        for item in self.covers or []:
            for start in item.named():
                if not any(text.startswith(start) for text in items):
                    raise ValueError(f"covers: {item.what!r}: by={start!r}: no claim, check or source begins so")
        if self.covers is not None:
            quoted = [(row.source, "") for row in rows] + [(row.source, COUNTED) for row in self.counted or []]
            quoted += [(claim.published["source"], claim.name) for claim in self.claims if claim.published]
            shown = {mark for item in self.covers for mark in printed(item.what)}
            starts = tuple(start for item in self.covers for start in item.named())
            for source, name in quoted:
                marks = printed(source)
                if not (marks and marks <= shown) and not source.startswith(starts) and not name.startswith(starts):
                    raise ValueError(f"covers: source {source!r} is in none of them; expected it in what or by")
        return self


@dataclass(frozen=True, config=CLOSED)
class Sweep(Closed):
    """conf/sweep/<paper>/<name>.yaml: the arguments that sweep=<name> stands for."""

    arguments: list[Text]
    """Lines as on the command line of experiments.run -m, none about Hydra or a launcher."""
    jobs: Whole = 1
    """How many of its jobs run at the same time on this machine, unless the command line chooses a launcher."""
    about: Text = ""
    """What it asks."""


FILES = {"paper": PaperFile, "recipe": Recipe, "sweep": Sweep}  # by their folder in conf/
