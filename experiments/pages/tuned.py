"""How the arms of a setting were tuned, in a sentence: the grid, what was best for each, and whether an edge was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from experiments.evidence import registrations
from experiments.evidence.tuning import Best, Tuning
from experiments.pages.numbers import number


def of(paper: str, setting: str, registration: str | None) -> str:
    """What the registration of a recorded setting says of it; empty where it says nothing.

    Args:
        setting: its title, as mini+clean.
        registration: hash of the registration under which it was recorded.
    """
    filed = next((item for item in registrations.all_of(paper, setting) if item.hash == registration), None)
    if filed is None:
        return ""
    reason = (filed.bound.get("tune") or {}).get("none")
    if reason:
        return f"none: {reason}"
    table = filed.about.get("tuning")
    return told(cast(Tuning, table)) if isinstance(table, Mapping) and "chosen" in table else ""


def told(table: Tuning) -> str:
    """A table that `make tune` wrote, in a sentence."""
    values = ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in table["values"])
    pilots = ", ".join(map(str, table["seeds"]))
    keys = " and ".join(key.removeprefix("stages.") for key in table["keys"])
    best = ", ".join(_best(arm, chosen) for arm, chosen in table["chosen"].items())
    return f"{keys} from {values} for all arms alike, by {table['by']} of pilot seeds {pilots}; best: {best}"


def _best(arm: str, chosen: Best) -> str:
    if chosen["mean"] is None:
        return f"{arm} at none, since it failed at each"
    edge = ", the grid's edge" if chosen["edge"] else ""
    return f"{arm} at {chosen['value']} ({number(chosen['mean'])}{edge})"
