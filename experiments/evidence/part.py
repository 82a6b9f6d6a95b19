"""What the parts of a record have in common: how they are read and written, and what a value may be. No torch.

A field without a default is always written, also where it is null; one with a default only where it says something
else. Times are ISO 8601 with their zone; seconds are of the wall clock unless their name says CPU.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from experiments.common.plain import Plain

MOST_TEXT = 20_000  # letters of one text
MOST_SEEDS = 10_000
MOST_SIZE = 1e100  # of a number that a claim states
MOST_ITEMS = 10_000  # of one list or mapping, curves' points among them


def _check_number(value: int | float) -> int | float:
    if not -MOST_SIZE < value < MOST_SIZE:
        raise ValueError(f"expected a finite number, got {str(value)[:60]}")
    return value


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

    def plain(self) -> Plain:
        """As JSON holds it: without what has its default."""
        return self.model_dump(exclude_defaults=True)


def first_mistake(error: ValidationError) -> str:
    """The first of what is wrong with a part of a record, with where it stands."""
    first = error.errors(include_url=False)[0]
    said = first["msg"].removeprefix("Value error, ")
    place = ".".join(map(str, first["loc"]))
    return ": ".join(filter(None, [place, said[:1].lower() + said[1:]]))
