"""Overlays of others that were verified, as the suite lists them: results/overlays/<name>.json. Imports no torch.

A list holds what was shown and when, for the index; the records themselves stay in the overlay, and the suite's own
records hold nothing of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from experiments.common import files
from experiments.common.errors import InputError
from experiments.evidence import results
from experiments.evidence.part import Names, Part, first_mistake

MOST_BYTES = 2**20


class Verified(Part):
    """A recorded setting of an overlay.

    Attributes:
        setting: as mini+mine.
        stale: what of it is not as it was recorded; empty if it is.
        ran: in words, what a recorded seed that was run anew showed; empty where none was.
    """

    paper: str
    setting: str
    claim: str
    verdict: str
    difference: float | None = None
    unit: str = ""
    seeds: int
    stale: Names = Field(default_factory=list)
    ran: str = ""


class Listed(Part):
    """An overlay that was verified.

    Attributes:
        commit: of the overlay; None where it came without a repository.
        suite: the commit of the suite that verified it.
        at: when.
        differences: how many things did not follow.
        order: empty where its history shows what came first, else why it does not.
    """

    name: str
    about: str = ""
    commit: str | None
    suite: str | None
    at: str
    differences: int
    order: str = ""
    settings: Annotated[list[Verified], Field(max_length=1000)]


def folder() -> Path:
    return results.RESULTS / "overlays"


def write(listed: Listed) -> Path:
    place = folder() / f"{listed.name}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(place, listed.plain())
    return place


def read_all() -> list[Listed]:
    """Every overlay that is listed, by name. Raises InputError for a damaged list."""
    return [_read(path) for path in sorted(folder().glob("*.json"))]


def _read(path: Path) -> Listed:
    if path.stat().st_size > MOST_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes, at most {MOST_BYTES}; restore it with git")
    try:
        return Listed.model_validate(files.read_json(path))
    except ValidationError as error:
        raise InputError(f"{path}: {first_mistake(error)}; make verify writes it anew") from error
