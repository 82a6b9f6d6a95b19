"""A site built from one record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.common import files
from experiments.evidence import layout, results, staleness
from experiments.evidence.records import Record
from experiments.pages import report


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Build a site from one record (None: never run); returns its pages by name."""

    def run(record: Record | None, stale: list[str] | None = None, beside: list[str] | None = None) -> dict[str, str]:
        monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
        monkeypatch.setattr(report, "RUNS", tmp_path / "runs")
        monkeypatch.setattr(staleness, "of_main", lambda key, entry: stale or [])
        monkeypatch.setattr(staleness, "of_others", lambda key, entry: beside or [])
        if record is not None:
            files.write_text(tmp_path / "results" / "meal_v2.json", layout.text(record))
        written = report.build(["meal_v2"], tmp_path / "site")
        assert [path.name for path in written] == ["index.html", "meal_v2.html"]
        return {path.stem: path.read_text(encoding="utf-8") for path in written}

    return run
