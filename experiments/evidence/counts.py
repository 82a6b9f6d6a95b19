"""What a paper's tables say of its networks' size, beside what is counted here. Imports no torch.

    counted:
      - network: stages.nasnet_a.module.network     # of the full recipe, where it says how the network is built
        variant: mobile
        set: {regularisers: {auxiliary: false}}     # merged over it: what the table leaves out
        input: [3, 224, 224]                        # mult-adds are those of one such image
        parameters: 5.3M                            # as printed: matched by what rounds to it
        mult_adds: 564M
        source: Table 3

Nothing is drawn and nothing trained, so there are no seeds and no registration: the same network gives the same number
wherever it is counted. `make counts` writes them to results/counts/<paper>.json, make check-results counts again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.common import files
from experiments.common.errors import InputError
from experiments.config import compose, written
from experiments.config.networks import Counted
from experiments.evidence import results
from experiments.evidence.words import FAILED, MATCHED

WHAT = ("parameters", "mult_adds")
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}


@dataclass(frozen=True)
class Row:
    """One printed number beside ours; `ours` is a count, not in the unit of the printed one; `changed` as in `set`."""

    network: str
    variant: str | None
    changed: str
    what: str
    printed: str
    ours: int
    verdict: str
    source: str
    note: str = ""

    @property
    def where(self) -> str:
        """The stage, and how its network differs from the main setting's."""
        return " ".join(filter(None, (self.network.split(".")[1], self.variant, self.changed)))


def declared(paper: str) -> list[Counted]:
    """What a paper's file asks to count. Raises InputError naming the row and what is wrong with it."""
    rows = compose.paper_file(paper).get("counted") or []
    return [written.read(Counted, row, f"counted.{index}") for index, row in enumerate(rows)]


def limits(printed: str | int) -> tuple[float, float]:
    """The counts that round to a printed number: from half a unit of its last digit below it to half a unit above.

    A number without a unit is whole, and only itself. Raises InputError for a text that is no such number.
    """
    match = re.fullmatch(r"(\d[\d,]*)(?:\.(\d+))?([KMGB]?)", str(printed).strip())
    if match is None or (match[2] and not match[3]):
        raise InputError(f"counted: {printed!r}: expected a number as printed, such as 5.3M, 564M, 23.8G or 334851")
    whole, decimals, unit = match[1].replace(",", ""), match[2] or "", UNITS[match[3]]
    value = float(f"{whole}.{decimals or 0}") * unit
    half = 0.5 * unit / 10 ** len(decimals) if unit > 1 else 0.0
    return value - half, value + half


def judge(asked: Counted, what: str, ours: int) -> Row:
    """A declared row's `parameters` or `mult_adds` beside ours."""
    printed = str(getattr(asked, what))
    low, high = limits(printed)
    slack = 1e-9 * high  # of floating point, where the limit itself is reached
    verdict = MATCHED if low - slack <= ours <= high + slack else FAILED
    return Row(
        asked.network,
        asked.variant,
        ", ".join(_changes(asked.set)),
        what,
        printed,
        ours,
        verdict,
        asked.source,
        asked.note,
    )


def _changes(settings: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """`head.auxiliary=False` for each setting, however deep it lies."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _changes(value, f"{within}{key}.")
        else:
            yield f"{within}{key}={value}"


def path(paper: str) -> Path:
    return results.base() / "counts" / f"{paper}.json"


def stored(paper: str) -> list[Row]:
    """What was counted and written; nothing where that was never done. Raises InputError for a damaged file."""
    content = files.read_json(path(paper))
    if content is None:
        return []
    try:
        return [Row(**row) for row in content["rows"]]
    except (TypeError, KeyError) as error:
        raise InputError(f"{path(paper)}: expected rows as make counts writes them ({error})") from error


def write(paper: str, rows: Sequence[Row]) -> Path:
    place = path(paper)
    place.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(place, {"key": paper, "rows": [asdict(row) for row in rows]})
    return place


def differences(recorded: Sequence[Row], derived: Sequence[Row]) -> list[str]:
    """How written counts differ from those counted now, a line for each."""

    def by_name(rows: Sequence[Row]) -> dict[str, Row]:
        return {f"{row.what} of {row.where}": row for row in rows}

    before, now = by_name(recorded), by_name(derived)
    lines = [f"{name} is not in the paper's file; make counts" for name in before if name not in now]
    for name, row in now.items():
        if name not in before:
            lines.append(f"{name} was not counted; make counts")
        elif before[name] != row:
            then = before[name]
            lines.append(f"{name}: recorded {then.ours:,} ({then.verdict}), counted {row.ours:,} ({row.verdict})")
    return lines
