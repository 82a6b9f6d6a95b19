"""`make counts`: what it wrote is what the networks of full recipes are."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.commands import check_results, counts
from experiments.common import files
from experiments.config import compose
from experiments.evidence import counts as recorded
from experiments.evidence import results

COUNTED = [paper for paper in compose.papers() if recorded.declared(paper)]
QUICK = "g_simclr"  # two small networks


@pytest.mark.parametrize(
    "paper", [paper if paper == QUICK else pytest.param(paper, marks=pytest.mark.slow) for paper in COUNTED]
)
def test_what_is_written_is_counted_again(paper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.common.memory.REMEMBERED", tmp_path / "remembered.json")
    assert recorded.stored(paper)
    assert list(check_results.counted(paper)) == []


def test_a_number_that_was_changed_by_hand_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = files.read_json(recorded.path(QUICK))
    stored["rows"][0] |= {"ours": 334_850, "verdict": "failed"}
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    files.write_json(recorded.path(QUICK), stored)
    (line,) = check_results.counted(QUICK)
    assert line == f"{QUICK}: counts: parameters of autoencoder: recorded 334,850 (failed), counted 334,851 (matched)"


def test_at_least_eight_papers_have_their_sizes_counted() -> None:
    """Every declared number is written, and nearly all are those of the papers."""
    rows = [row for paper in COUNTED for row in recorded.stored(paper)]
    declared = [row for paper in COUNTED for row in recorded.declared(paper)]
    numbers = sum(getattr(row, what) is not None for row in declared for what in recorded.WHAT)
    assert (len(COUNTED) >= 8, len(rows)) == (True, numbers)
    assert sum(row.verdict == "matched" for row in rows) > 0.8 * len(rows)


def test_a_paper_without_printed_sizes_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert counts.main(["cifake"]) == 0
    assert "cifake: its file has no `counted` rows" in capsys.readouterr().out
