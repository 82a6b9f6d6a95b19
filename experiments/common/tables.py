"""metrics.csv: one row per epoch. Imports no torch, so that reports can read it."""

from __future__ import annotations

import csv
from pathlib import Path

from experiments.common.files import replacing


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """A CSV with one row per epoch and a column per metric ever logged."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, float]]:
    """What write_rows wrote; empty cells are left out. An absent or damaged file has no rows."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as lines:
        try:
            return [{k: float(v) for k, v in row.items() if v != ""} for row in csv.DictReader(lines)]
        except (ValueError, TypeError, csv.Error):
            return []
