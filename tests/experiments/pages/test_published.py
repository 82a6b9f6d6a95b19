"""Published numbers beside ours: which rows there are, and what each says."""

from __future__ import annotations

from typing import Any

from experiments.evidence import counts
from experiments.evidence.records import Entry
from experiments.pages import published
from tests import example

ROW = counts.Row("stages.a.module.network", None, "", "parameters", "1M", 1_000_000, "matched", "Table 9")
FAILED = counts.Row("stages.b.module.network", None, "", "parameters", "2M", 1_000_000, "failed", "Table 9")


def recorded(*rows: dict[str, Any]) -> dict[str, dict[str, Entry]]:
    return {"meal_v2": {"full": example.entry([0, 1], published=[example.published(**row) for row in rows])}}


def test_a_trained_number_has_its_interval_and_what_was_not_reached_for_has_no_row() -> None:
    judged = {"value": 93.0, "tolerance": 0.5, "ours": 93.125, "interval": [92.5, 93.75], "verdict": "undecided"}
    rows = published.trained(recorded(judged, {"verdict": "not run", "ours": None}))
    assert len(rows) == 3
    assert "| full |" in rows[2]
    assert "| 93 ± 0.5 | 93.12 [92.50, 93.75] | undecided | 2 |" in rows[2]


def test_exact_numbers_are_counted_by_paper() -> None:
    entries = recorded(
        *[{"kind": "exact", "verdict": word, "ours": 1.0, "interval": None} for word in ("matched",) * 2]
    )
    assert published.trained(entries)[2:] == []
    assert published.exact(entries, {"meal_v2": [ROW, ROW, FAILED]})[2:] == [
        "| `meal_v2` | labels | 2 |  |",
        "| `meal_v2` | parameters and mult-adds | 2 | 1 |",
    ]
    assert published.exact({"other": {}}, {})[2:] == []
