"""What one graphics card was measured to do with this suite: results/hardware/<card>.json. Imports no torch.

`make gpu` writes a row for each thing it measured, or the reason why it could not be. Times of a card are those of its
own recipes: they are compared with nothing of another machine, and no verdict rests on them.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from experiments.common import files
from experiments.common.errors import InputError
from experiments.evidence import results
from experiments.evidence.part import MOST_ITEMS, Names, Part, first_mistake
from experiments.evidence.ran import Code

SMALL = 1e-6  # the size below which a number counts as that large, for relative differences


class Refusal(Part):
    """How requests for several processes on one card ended: a reason for each."""

    kind: Literal["refusal"] = "refusal"
    reasons: Names


class Smoke(Part):
    """A paper's smoke run on the card beside the processor's in fp32.

    Attributes:
        metrics: how many were compared.
        median, largest: relative differences; `where` is the metric of the largest.
        tolerance: of the median. Single metrics may jump: one image more of forty is 2.5 points.
        strange: metrics that are there, or finite, on one of the two alone.
    """

    kind: Literal["smoke"] = "smoke"
    metrics: int
    median: float
    largest: float
    where: str
    tolerance: float
    strange: Names = []

    @property
    def agrees(self) -> bool:
        return not self.strange and self.metrics > 0 and self.median <= self.tolerance


class Steps(Part):
    """A stage of a full recipe, timed by its steps.

    Attributes:
        batch, published: images a step, as timed and as published.
        step, load: seconds of a step, and of making its batch.
        beside: whether batches are made by workers, beside the steps.
        memory, memory_published: bytes at these batches; the latter expected where the batches differ.
        steps: of one seed's training.
        hours: of one seed's training.
        real: whether the batches were the dataset's own.
        at_least: whether a real step takes longer.
    """

    kind: Literal["steps"] = "steps"
    batch: int
    published: int
    step: float
    load: float
    beside: bool
    memory: int
    memory_published: int
    steps: int
    hours: float
    real: bool
    at_least: bool

    @property
    def rate(self) -> float:
        """Images a second of steps alone."""
        return self.batch / self.step


class Beside(Part):
    """A network of ours beside an independent one: seconds for the same images, in turns in one process."""

    kind: Literal["beside"] = "beside"
    what: str
    batch: int
    theirs: float
    ours: float

    @property
    def ratio(self) -> float:
        return self.ours / self.theirs


class Switch(Part):
    """A stage's step without and with one switch of the trainer: seconds, and bytes at that batch."""

    kind: Literal["switch"] = "switch"
    batch: int
    off: float
    on: float
    memory_off: int
    memory_on: int

    @property
    def ratio(self) -> float:
        return self.on / self.off


class Failed(Part):
    """Nothing was measured, and why."""

    kind: Literal["failed"] = "failed"
    reason: str


Found = Annotated[Refusal | Smoke | Steps | Beside | Switch | Failed, Field(discriminator="kind")]


class Row(Part):
    """One thing that was asked of a card.

    Attributes:
        part: refusal, smoke, steps, beside or switch.
        paper, what: the paper, and its stage or its pair of networks; may be empty.
        how: a precision or a switch.
        at: when it was measured.
        seconds: what measuring took.
    """

    part: str
    paper: str
    what: str
    how: str
    at: str
    code: Code
    seconds: float
    found: Found

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.part, self.paper, self.what, self.how


class Card(Part):
    """All that was measured of one card.

    Attributes:
        name: as its driver tells it.
        memory: bytes.
        cpu: the processor beside it, with the cores that a process may use.
        asked: how many things there were to measure when the last one was.
    """

    name: str
    memory: int
    cpu: str
    versions: dict[str, str]
    asked: int
    rows: Annotated[list[Row], Field(max_length=MOST_ITEMS)] = []

    @property
    def seconds(self) -> float:
        """What measuring took so far."""
        return sum(row.seconds for row in self.rows)

    def put(self, row: Row) -> None:
        """Add a row, in place of one about the same."""
        self.rows = [*(other for other in self.rows if other.key != row.key), row]


def compare(reference: Mapping[str, float], found: Mapping[str, float], tolerance: float) -> Smoke:
    """Metrics of the card beside the processor's, by relative difference."""
    alone = set(reference) ^ set(found)
    both = sorted(set(reference) & set(found))
    finite = [name for name in both if math.isfinite(reference[name]) and math.isfinite(found[name])]
    strange = {name for name in both if math.isfinite(reference[name]) != math.isfinite(found[name])} | alone
    apart = {name: _apart(reference[name], found[name]) for name in finite}
    where = max(apart, key=lambda name: apart[name], default="")
    return Smoke(
        metrics=len(finite),
        median=statistics.median(apart.values()) if apart else 0.0,
        largest=apart[where] if apart else 0.0,
        where=where,
        tolerance=tolerance,
        strange=sorted(strange),
    )


def _apart(one: float, other: float) -> float:
    return abs(one - other) / max(abs(one), abs(other), SMALL)


def folder() -> Path:
    return results.base() / "hardware"


def path(name: str, place: Path | None = None) -> Path:
    """The file of a card by its name, such as nvidia-h100-80gb-hbm3.json."""
    return (place or folder()) / f"{re.sub(r'[^a-z0-9]+', '-', name.casefold()).strip('-')}.json"


def read(file: Path) -> Card | None:
    """None where there is no such file. Raises InputError for one that is damaged, or written by another version."""
    if not file.exists():
        return None
    try:
        return Card.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise InputError(f"{file}: {first_mistake(error)}; expected what make gpu writes") from error


def read_all() -> Iterator[Card]:
    """Every card whose measurements are in the repository."""
    for file in sorted(folder().glob("*.json")):
        card = read(file)
        if card is not None:
            yield card


def write(card: Card, file: Path) -> None:
    files.write_json(file, card.model_dump())


def of_paper(card: Card, paper: str) -> list[Row]:
    return [row for row in card.rows if row.paper == paper]
