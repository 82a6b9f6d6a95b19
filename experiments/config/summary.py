"""What a paper's file tells its readers: what of the paper is asked here, what was found, what deviates. No torch."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from experiments.config.written import CLOSED, Closed, Names, Number, Text, Written, choice_of


@dataclass(frozen=True, config=CLOSED)
class Deviation(Closed):
    """Where paper, released code and this suite differ."""

    what: Text
    """What differs."""
    paper: Number | Text
    """What the paper says."""
    code: Number | Text
    """What the released code does."""
    ours: Number | Text
    """What is done here."""
    why: Text
    """Why it is done so."""


COUNTED = "counted"  # what covers calls the sizes of networks
# YAML reads a bare no as false
Asked = Annotated[  # type: ignore[valid-type]
    choice_of(Literal["full", "lab", "mini", "no"]),
    BeforeValidator(lambda value: "no" if value is False else value),
]
AskedScales = Annotated[  # type: ignore[valid-type]
    list[choice_of(Literal["full", "lab", "mini"])],  # type: ignore[misc]
    Field(min_length=1),
    Written("a list of scales"),
]


@dataclass(frozen=True, config=CLOSED)
class Covered(Closed):
    """A table, figure or claim of the paper, and whether it is asked here."""

    what: Text
    """Which, with the number that the paper gives it: "Table 3: ImageNet, by size of network"."""
    asked: Asked | AskedScales  # type: ignore[valid-type]
    """The scales that ask it, or no."""
    by: Names = ()
    """What asks it: how the name of a claim or of a check, or the source of published numbers, begins, or `counted`;
    nothing: all that its settings measure. Whether that was run is read from the records."""
    variant: Names | None = None
    """The variants that ask it, as for claims."""
    why: Text = ""
    """Where it is not asked: why."""

    @model_validator(mode="after")
    def _says_why_not(self) -> Covered:
        if self.asked == "no" and not self.why:
            raise ValueError(f"{self.what!r}: why is missing, the reason why it is not asked")
        if self.asked == "no" and (self.by or self.variant):
            raise ValueError(f"{self.what!r}: asked is no; expected no by and no variant")
        if COUNTED in self.named() and (self.named() != [COUNTED] or self.scales() != ["full"]):
            raise ValueError(f"{self.what!r}: by {COUNTED} stands alone, asked full")
        return self

    def scales(self) -> list[str]:
        """Those that ask it."""
        asked = [self.asked] if isinstance(self.asked, str) else list(self.asked)
        return [scale for scale in asked if scale != "no"]

    def named(self) -> list[str]:
        """What asks it, by how that begins."""
        return [self.by] if isinstance(self.by, str) else list(self.by)


Word = choice_of(
    Literal["supported", "refuted", "effect only", "no gain", "undecided", "untested", "not run", "holds", "fails"]
)
MOST_LETTERS = 200  # of a finding


@dataclass(frozen=True, config=CLOSED)
class Finding(Closed):
    """What was found over all recorded settings of a paper, and where it was not."""

    text: Text
    """In one or two plain sentences, of at most 200 letters."""
    written_for: dict[str, Word]  # type: ignore[valid-type]
    """The main claim's verdict by recorded setting, as in {mini: supported, mini+clean: no gain}."""

    @model_validator(mode="after")
    def _is_short(self) -> Finding:
        if len(self.text) > MOST_LETTERS:
            raise ValueError(f"text has {len(self.text)} letters; expected at most {MOST_LETTERS}")
        return self


KINDS = {"Tab": "Table", "Fig": "Figure"}


def printed(text: str) -> set[str]:
    """The tables and figures that a text names: "Tables 4 and 5; Fig. 2" names Table 4, Table 5 and Figure 2."""
    named = re.findall(r"\b(Tab|Fig)(?:le|ure)?(s?)\.? (\d+)((?:(?:, | and )\d+)*)", text)
    marks = set()
    for kind, plural, first, further in named:
        numbers = [first, *re.findall(r"\d+", further if plural else "")]
        marks |= {f"{KINDS[kind]} {number}" for number in numbers}
    return marks
