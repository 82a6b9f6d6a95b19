"""A record goes on without its runs: numbers and verdicts of an unbroken run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.commands import check_results, reproduce
from experiments.common.errors import InputError
from experiments.evidence import results
from experiments.pages import answers

PAPER = "case_based_prototypes"
TITLE = "smoke"


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The record of two seeds, made as if smoke were a scale that is recorded."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(reproduce, "is_recorded", lambda scale: True)
    monkeypatch.setattr(results, "personal", lambda overrides: [])
    monkeypatch.setattr(reproduce, "_finish", lambda paper: None)
    assert run(tmp_path / "there", "most=2") == 0
    return stored()


def run(runs: Path, *words: str) -> int:
    return reproduce.main(
        [f"paper={PAPER}", "scale=smoke", "jobs=1", "seeds=null", "first=2", f"runs_dir={runs}", *words]
    )


def stored() -> dict[str, Any]:
    known = results.read(PAPER)
    assert known is not None
    entry: dict[str, Any] = known["entries"][TITLE]
    return entry


def edit(change: Any) -> None:
    """Change the entry on disk as a record of another machine or code would differ."""
    path = results.RESULTS / f"{PAPER}.json"
    record = json.loads(path.read_text())
    entry = record["entries"][TITLE]
    change(entry)
    entry["seal"] = results.seal(entry)
    path.write_text(json.dumps(record))


def test_it_goes_on_as_if_its_runs_were_there(recorded: dict[str, Any], tmp_path: Path) -> None:
    assert run(tmp_path / "here", "most=4", "from_record=true") == 0
    onward = stored()
    assert [p.name for p in sorted((tmp_path / "here" / PAPER / "smoke").glob("seed=*"))] == [
        f"seed={seed}" for seed in (1002, 1003)
    ]
    edit(lambda entry: entry.update(recorded))
    assert run(tmp_path / "there", "most=4", "record=true") == 0
    unbroken = stored()
    assert onward["seeds"] == unbroken["seeds"] == [1000, 1001, 1002, 1003]
    for part in ("claims", "checks", "published", "looked", "registered"):
        assert onward[part] == unbroken[part]
    for name, stage in unbroken["stages"].items():
        assert onward["stages"][name]["metrics"] == stage["metrics"]
        assert onward["stages"][name]["fingerprints"] == stage["fingerprints"]
        assert len(onward["stages"][name]["seconds"]) == len(stage["seconds"])
    (joined,) = onward["joined"]
    assert joined["seeds"] == [1002, 1003]
    (line,) = answers.joined(onward)
    assert "seeds 1002, 1003 ran on" in line
    edit(lambda entry: entry.update(onward))
    record = results.read(PAPER)
    assert record is not None
    assert list(check_results.check(record)) == []


def test_a_stale_record_is_confirmed_first(recorded: dict[str, Any], tmp_path: Path) -> None:
    edit(lambda entry: entry["stages"]["dense"].update(fingerprints=["0" * 12] * 2))
    before = stored()
    with pytest.raises(InputError, match=r"dense is stale.*make confirm PAPER=case_based_prototypes"):
        run(tmp_path / "here", "most=4", "from_record=true")
    assert stored() == before


def test_what_cannot_go_on_says_why(recorded: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="from_record=yes: expected true, for a record, or false"):
        run(tmp_path / "here", "from_record=yes")
    edit(lambda entry: entry["registered"].update(hash="another"))
    with pytest.raises(InputError, match="has other claims or another recipe now"):
        run(tmp_path / "here", "from_record=true", "why=a test")
    (results.RESULTS / f"{PAPER}.json").unlink()
    with pytest.raises(InputError, match="has no recorded seed"):
        run(tmp_path / "here", "from_record=true")
