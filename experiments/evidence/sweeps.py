"""What a sweep leaves in runs/, as classes: a record for each job, and one of all of them. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError, model_validator

from experiments.common import files
from experiments.common.errors import InputError
from experiments.evidence.part import MOST_ITEMS, MOST_SEEDS, Interval, Names, Part, Seeds, first_mistake

MOST_BYTES = 2**24

P = TypeVar("P", bound=Part)
Numbers = Annotated[list[float], Field(max_length=MOST_SEEDS)]


class Job(Part, allow_inf_nan=False):
    """One job of a sweep: its overrides without those that say where it runs, and what it gave.

    Attributes:
        seed: as it was asked for, also where it is none.
        value: of the objective; None where it failed.
        exit_code, reason: how it ended; the reason is empty where it succeeded.
    """

    paper: str
    scale: str
    seed: int | float | str | None
    overrides: Names
    objective: str
    value: float | None
    exit_code: int
    reason: str


class Swept(Part, allow_inf_nan=False):
    """One setting of a sweep over its seeds: a value for each, their mean and its 95% interval."""

    setting: str
    seeds: Seeds
    values: Numbers
    mean: float | None
    interval: Interval | None
    failed: Names

    @model_validator(mode="after")
    def _fits(self) -> Swept:
        if len(self.seeds) != len(self.values):
            raise ValueError(f"{len(self.values)} values for {len(self.seeds)} seeds")
        return self


class Sweep(Part, allow_inf_nan=False):
    """All jobs of one sweep that ran one paper at one scale."""

    name: str
    paper: str
    scale: str
    written: str
    objective: str
    settings: Annotated[list[Swept], Field(max_length=MOST_ITEMS)]


def read(path: Path) -> Sweep | None:
    """A sweep's file; None where it was not written to its end. Raises InputError for one that is something else."""
    return _read(Sweep, path)


def read_job(path: Path) -> Job | None:
    """A job's file; as read()."""
    return _read(Job, path)


def _read(kind: type[P], path: Path) -> P | None:
    if path.is_file() and path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes, at most {MOST_BYTES}; remove it and sweep again")
    value = files.read_json(path)
    if value is None:
        return None
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise InputError(f"{path}: {first_mistake(error)}; remove it and sweep again") from error
