"""What came of a room's mutants: its score, its survivors, its line in docs/mutants.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from experiments.common.errors import InputError
from experiments.common.files import read_json, write_json, write_text
from experiments.common.paths import ROOT
from tests.mutants import run
from tests.mutants.mutations import Mutant

EQUAL = Path(__file__).with_name("equal.yaml")
FOLDER = ROOT / "runs" / "mutants"  # git ignores it
PAGE = ROOT / "docs" / "mutants.md"
COLUMNS = ("room", "mutants", "tested", "killed", "of them at the limit", "equal", "survived", "killed, %", "date")

HEAD = """\
# Would the tests notice?

Written by `make mutants PAPER=K ARGS=--write`. mutmut changes a room's code in one place (a sign, a number, a
comparison, an argument, a name) and runs the tests that reach it: a mutant that they pass **survived**, and tells of a
test that is missing. 100 mutants of each room are drawn by a fixed seed; of `common`, which all others stand on, every
one was tested (`ARGS="count=6000 --write"`; 500 are drawn by default).

Mutated are functions and methods of `modules/K` and `datamodules/K`; judges are the tests in `tests/papers/K` and
`tests/datamodules/K` that are not slow. Left out: what draws (`pictures.py`, functions that return figures), texts of
errors and what `repr` shows, code that runs at import, functions under a decorator other than `staticmethod` and
`classmethod`, which mutmut cannot exchange. **Equal** mutants compute the same as the code, by mathematics; each has
its reason in `tests/mutants/equal.yaml`, and the score leaves them out. A mutant that runs into a limit of time (an
endless loop) counts as killed. `common` is judged by `tests/modules/common` alone: what only papers' tests reach there
counts as unnoticed.

"""


@dataclass(frozen=True)
class Score:
    """A room's mutants, by what became of them."""

    room: str
    date: str
    content: str  # a hash of the code that was mutated
    seed: int
    mutants: int  # from which those tested were drawn
    results: Mapping[str, str]  # mutmut's name of each that was tested -> what became of it
    equal: Sequence[Mutant]
    survivors: Sequence[Mutant]

    @property
    def killed(self) -> int:
        return sum(word in (run.KILLED, run.TIMEOUT) for word in self.results.values())

    @property
    def percent(self) -> float:
        """Killed of those that a test could kill."""
        return 100 * self.killed / max(1, self.killed + len(self.survivors))

    def cells(self) -> tuple[str, ...]:
        limit = sum(word == run.TIMEOUT for word in self.results.values())
        counts = (self.mutants, len(self.results), self.killed, limit, len(self.equal), len(self.survivors))
        return (f"`{self.room}`", *map(str, counts), f"{self.percent:.0f}", self.date)


def equal_ones(path: Path = EQUAL) -> dict[tuple[str, str], str]:
    """(file, diff) of each mutant that computes the same -> why.

    Raises:
        InputError: an item without its file, diff or reason.
    """
    reasons = {}
    for item in yaml.safe_load(path.read_text(encoding="utf-8")) or []:
        if not isinstance(item, dict) or set(item) != {"file", "diff", "why"} or not all(item.values()):
            raise InputError(f"{path.name}: {item}: expected file, diff and why")
        reasons[item["file"], _plain(item["diff"])] = item["why"]
    return reasons


def _plain(diff: str) -> str:
    return "\n".join(line.strip() for line in diff.strip().splitlines())


def is_equal(mutant: Mutant, reasons: Mapping[tuple[str, str], str]) -> bool:
    return (mutant.file, _plain(mutant.diff())) in reasons


def save(score: Score) -> Path:
    path = FOLDER / f"{score.room}.json"
    write_json(path, asdict(score) | {"killed": score.killed, "percent": round(score.percent, 1)})
    return path


def last(room: str) -> dict[str, Any]:
    """What the last run of a room wrote; empty if none did."""
    return read_json(FOLDER / f"{room}.json") or {}


def write_page(score: Score, path: Path = PAGE) -> None:
    """Put a room's line into the page, in the place of an older one."""
    rows = rows_of(path.read_text(encoding="utf-8")) if path.is_file() else {}
    rows[score.room] = _line(score.cells())
    head = [_line(COLUMNS), _line(["---"] * len(COLUMNS))]
    write_text(path, HEAD + "\n".join([*head, *(rows[room] for room in sorted(rows))]) + "\n")


def rows_of(text: str) -> dict[str, str]:
    """The lines of a page's table, by room."""
    return {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
