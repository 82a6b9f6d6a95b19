"""Numbers that a paper prints, as its file says them: of a claim, of an arm, of a whole table. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Tag
from pydantic.dataclasses import dataclass
from typing_extensions import TypedDict

from experiments.config.written import CLOSED, Closed, FromZero, Names, Number, Text, choice_of


class Reported(TypedDict):
    """What the paper reports of a claim."""

    difference: Number
    source: Text


@dataclass(frozen=True, config=CLOSED, kw_only=True)
class Measurement(Closed):
    """What was measured, on what and how, and how near a number of ours has to come."""

    dataset: Text
    """And its split."""
    protocol: Text
    """How it was measured."""
    source: Text
    """Table, page or file."""
    variant: Names | None = None
    """The variants it is about, as for claims."""
    tolerance: FromZero = 0.3
    """How far ours may lie from what is printed and still be the same number."""
    kind: choice_of(Literal["normal", "exact"]) = "normal"  # type: ignore[valid-type]
    """Normal over seeds; exact for numbers without chance, which are judged at any scale."""
    scale: Names | None = None
    """The scales it is about, as for claims."""


@dataclass(frozen=True, config=CLOSED, kw_only=True)
class Published(Measurement):
    """A number the paper reports."""

    stage: Text
    """The arm that produced it."""
    metric: Text
    """<split>/<metric>."""
    value: Number
    """As the paper prints it."""


@dataclass(frozen=True, config=CLOSED, kw_only=True)
class PublishedTable(Measurement):
    """Several numbers that the paper reports of one dataset and protocol."""

    values: dict[str, Number]
    """<stage>/<split>/<metric>: the number."""


def _is_table(row: Any) -> str:
    return "table" if isinstance(row, Mapping) and "values" in row else "row"


PublishedRow = Annotated[
    Annotated[Published, Tag("row")] | Annotated[PublishedTable, Tag("table")], Discriminator(_is_table)
]
