"""A replication on a page: its word, its differences as a figure, and what recipe each seed drew. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from experiments.evidence.records import Entry
from experiments.pages import differences, display, numbers, view


@dataclass(frozen=True)
class Replicated:
    """The main claim judged anew, everything formatted; a row for each seed: itself, what it drew, its difference."""

    told: str
    figure: Markup
    knobs: Sequence[str]
    rows: Sequence[Sequence[str]]


def of(entry: display.Entry, recorded: Entry) -> Replicated | None:
    """The main claim judged anew, everything formatted; None where it was not replicated.

    The figure has the axis of the recorded claim's, unless the new differences would not be seen on it.
    """
    found, main = recorded.replication, entry.main
    if found is None or main is None:
        return None
    again = view.claim(found.claim)
    figure = differences.draw_claim(again, differences.span(again, [main, again])) if again.per_seed else ""
    knobs = list(dict.fromkeys(name for drawn in found.drawn for name in drawn))
    measured = dict(zip(found.claim.seeds, found.claim.per_seed, strict=False))
    rows = []
    for seed, drawn in zip(found.seeds, found.drawn, strict=True):
        difference = numbers.signed(measured[seed]) if seed in measured else "–"
        rows.append([str(seed), *(_value(drawn.get(name)) for name in knobs), difference])
    return Replicated(entry.replication, Markup(figure), knobs, rows)


def _value(drawn: Any) -> str:
    """A factor or value that a seed drew."""
    if drawn is None:
        return "–"
    return f"{drawn:.3g}" if isinstance(drawn, float) else str(drawn)
