"""What a command says it is about to do: stages, seeds, what is done, and the time for all settings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.commands import outlook
from experiments.commands.outlook import Outlook
from experiments.evidence import results


def setting(name: str, registered: bool = True, from_record: bool = False, is_recorded: bool = True) -> Any:
    facts = {"registered": registered or None, "from_record": from_record, "is_recorded": is_recorded}
    paper, _, scale = name.partition("/")
    asked = SimpleNamespace(paper=paper, scale=scale, variant=None)
    return SimpleNamespace(
        name=name, request=asked, config=SimpleNamespace(most=32, minutes=15, runs_dir="runs"), **facts
    )


@pytest.mark.parametrize(
    ("seconds", "done", "told"),
    [
        (None, 0, "3 stages for each of 6 seeds: how long is not known yet"),
        (240.0, 0, "3 stages for each of 6 seeds: about 4 min"),
        (60.0, 7, "3 stages for each of 6 seeds, 7 of 18 done: about 60 s"),
        (0.0, 18, "3 stages for each of 6 seeds, 18 of 18 done"),
    ],
)
def test_a_setting_is_told_with_its_time(seconds: float | None, done: int, told: str) -> None:
    assert Outlook("meal/mini", 3, 6, done, seconds).told == told


def test_several_settings_are_summed_and_going_on_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"a/mini": 240.0, "a/mini+clean": 480.0, "a/mini+other": None}
    monkeypatch.setattr(outlook, "of", lambda asked: Outlook(asked.name, 2, 6, 0, times[asked.name]))
    told = outlook.lines([setting("a/mini"), setting("a/mini+clean")])
    assert told[2] == "all 2 settings: about 12 min"
    assert told[3].startswith(
        "then seeds are added until the main claim is decided, at most 32 seeds in all and for 15"
    )
    assert outlook.lines([*map(setting, times)])[3] == "all 3 settings: at least 12 min"
    assert len(outlook.lines([setting("a/mini", registered=False)])) == 1  # it explores: no seed is added
    assert not outlook.lines([setting("a/mini", from_record=True)])
    smoke = outlook.lines([setting("a/mini", registered=False, is_recorded=False)])
    assert smoke[1].endswith("its numbers mean nothing")


def test_it_says_where_stages_are_that_finished_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlook, "of", lambda asked: Outlook(asked.name, 2, 4, 0, None))
    monkeypatch.setattr(results, "unfinished", lambda: tmp_path)
    asked = setting("a/full")
    asked.config.runs_dir = str(tmp_path / "runs")
    assert not any("make unpack" in line for line in outlook.lines([asked]))

    (tmp_path / "a-full.runs").touch()
    assert any(line.endswith("a-full.runs puts them here") for line in outlook.lines([asked]))

    (tmp_path / "runs" / "a" / "full" / "seed=7").mkdir(parents=True)
    assert not any("make unpack" in line for line in outlook.lines([asked]))
