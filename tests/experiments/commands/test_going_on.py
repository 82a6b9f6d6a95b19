"""When a recording stops: decided for a user, kept beside all other papers for the repository."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from experiments.commands.seeds import Seeds
from experiments.evidence import results, suite
from experiments.evidence.records import Entry


def seeds(title: str = "mini", record: Any = True, count: int = 6) -> Any:
    """What `why_stop` looks at: a registered setting with `count` seeds, the next one not trained, and time left."""
    config = SimpleNamespace(record=record, most=32, minutes=15)
    setting = SimpleNamespace(title=title, paper="meal_v2", config=config, explores=False)
    this = SimpleNamespace(setting=setting, plans=[None] * count, registered=SimpleNamespace(stream=1, hash="a"))
    this._next_is_done = lambda: False
    this.minutes = lambda: 1.0
    this._is_alone = lambda entry: Seeds._is_alone(this, entry)
    return this


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> Entry:
    """A recorded entry that is decided, the only one of all papers."""
    entry = results.entry("meal_v2", "mini")
    assert entry is not None
    assert entry.main_claim() is not None
    monkeypatch.setattr(results, "entries", lambda paper: {})
    monkeypatch.setattr(results, "entry", lambda paper, title: None)
    monkeypatch.setattr("experiments.evidence.merge.put", lambda new, stored, registered, same: new)
    return entry


@pytest.mark.parametrize(
    ("kept", "told"),
    [({"meal_v2": False}, ""), ({"meal_v2": True}, "decided"), ({}, "decided")],  # {}: without chance
)
def test_the_repositorys_recordings_go_on_until_the_suite_keeps_them(
    decided: Entry, monkeypatch: pytest.MonkeyPatch, kept: dict[str, bool], told: str
) -> None:
    monkeypatch.setattr(suite, "keep", lambda entries: kept)
    assert Seeds.why_stop(seeds(), decided) == told


def test_what_is_asked_of_the_suite_is_the_entry_as_it_would_be_recorded(
    decided: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(suite, "keep", lambda entries: asked.append(entries) or {"meal_v2": False})
    assert Seeds.why_stop(seeds(), decided) == ""
    assert asked == [{"meal_v2": decided}]


@pytest.mark.parametrize(
    "this", [seeds(record="auto"), seeds(title="mini+clean"), seeds(count=32)], ids=["a user", "a variant", "no room"]
)
def test_others_stop_once_they_are_decided(decided: Entry, monkeypatch: pytest.MonkeyPatch, this: Any) -> None:
    monkeypatch.setattr(suite, "keep", lambda entries: {"meal_v2": False})
    assert Seeds.why_stop(this, decided) == "decided"
