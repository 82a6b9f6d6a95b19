"""Records in their files: what is read is what was written, what is damaged is named, a diff shows what changed."""

from __future__ import annotations

import copy
import difflib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.common.errors import InputError
from experiments.evidence import assembly, layout, onward, record_old, results, sequences
from experiments.evidence.records import Entry, Record
from tests import example

STAGES = ("teacher", "student")


def entry(seeds: int, noise: float = 0.0) -> Entry:
    """Two stages with three metrics and a curve each, and a claim."""
    numbers = [1000 + index for index in range(seeds)]
    values = {name: [0.1 * index + noise for index in range(seeds)] for name in ("test/top1", "test/ece", "val/top1")}
    stages = {
        name: example.stage(seeds, metrics=values, curves={"val/top1": example.curve()}, cpu_seconds=[2.5] * seeds)
        for name in STAGES
    }
    per_seed = [1.0 + index for index in range(seeds)]
    claim = example.claim("a beats b", "undecided", per_seed, [0.5, 2.5], main=True, seeds=numbers)
    return example.entry(numbers, stages=stages, claims=[claim])


def record(entry: Entry) -> Record:
    sealed = entry.model_copy(update={"seal": results.seal(entry)})
    return Record(key="meal_v2", title="T", arxiv="2009.08453", about="", deviations=[], entries={"mini": sealed})


def written(record: Record, folder: Path) -> Path:
    path = folder / "meal_v2.json"
    path.write_text(layout.text(record), encoding="utf-8")
    return path


def test_what_is_read_is_what_was_written_to_the_last_bit(tmp_path: Path) -> None:
    """Also what is not finite, in JSON that other programs read; a stage that did not run for a seed has no row."""
    recorded = entry(4)
    student = recorded.stages["student"]
    student.metrics["test/top1"] = [math.nextafter(0.1, 1.0), math.inf, math.nan, None]
    student.metrics["test/ece"][3] = student.metrics["val/top1"][3] = None
    student.fingerprints[3] = student.seconds[3] = student.cpu_seconds[3] = None
    path = written(record(recorded), tmp_path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    plain = json.loads(path.read_text(), parse_constant=refuse)
    rows = plain["entries"]["mini"]["stages"]["student"]["runs"]
    assert list(rows) == ["1000", "1001", "1002"]
    assert rows["1002"]["values"][0] == "NaN"

    again = results.parse(path).entries["mini"]
    values = again.stages["student"].metrics.pop("test/top1")
    assert values[2] is not None
    assert math.isnan(values[2])
    assert [values[0], values[1], values[3]] == [math.nextafter(0.1, 1.0), math.inf, None]
    del student.metrics["test/top1"]
    assert again.model_copy(update={"seal": ""}) == recorded


def test_a_further_seed_is_a_line_for_each_stage() -> None:
    """And in the claim its seeds and differences, in the entry its seeds, their number and the seal."""
    before, after = (layout.text(record(entry(seeds))).splitlines() for seeds in (6, 7))
    diff = [
        line for line in difflib.unified_diff(before, after, n=0) if line[0] in "+-" and line[:3] not in ("+++", "---")
    ]
    added = [line for line in diff if line.startswith("+") and '"1006"' in line]
    assert len(added) == len(STAGES)
    assert len(diff) < 25
    assert not [line for line in diff if 'test/top1"' in line]  # a metric's name stands once


def test_one_metric_that_moved_is_one_line() -> None:
    recorded = entry(6)
    before = layout.text(record(recorded))
    recorded.stages["student"].metrics["test/ece"][2] = 0.5
    after = layout.text(record(recorded))
    changed = [a for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(changed) == 2  # its seed's row, and the seal


def test_the_seal_holds_everything_and_forgives_the_order_of_keys() -> None:
    recorded = entry(3)
    seal = results.seal(recorded)
    turned = recorded.model_copy(update={"stages": dict(reversed(recorded.stages.items()))})
    assert results.seal(turned) == seal
    recorded.stages["student"].seconds[1] = 9.0
    assert results.seal(recorded) != seal


def mini(value: dict[str, Any]) -> dict[str, Any]:
    actual: dict[str, Any] = value["entries"]["mini"]
    return actual


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a misspelt key": (
        lambda v: mini(v).update(verdicts=1),
        r"entries\.mini: key 'verdicts' does not exist",
    ),
    "a key of a claim": (
        lambda v: mini(v)["claims"][0].update(verdit="supported"),
        r"entries\.mini\.claims\.0: key 'verdit' does not exist; did you mean 'verdict'",
    ),
    "a missing key": (
        lambda v: mini(v)["claims"][0].pop("verdict"),
        r"entries\.mini\.claims\.0\.verdict: field required",
    ),
    "a text for a number": (
        lambda v: mini(v).update(looked="6"),
        r"entries\.mini\.looked: input should be a valid integer",
    ),
    "true for a number": (
        lambda v: mini(v)["claims"][0].update(difference=True),
        r"entries\.mini\.claims\.0\.difference: input should be a valid number",
    ),
    "an interval of three": (
        lambda v: mini(v)["claims"][0].update(interval=[1.0, 2.0, 3.0]),
        r"claims\.0\.interval: list should have at most 2 items",
    ),
    "a huge text": (lambda v: v.update(about="x" * 30_000), "about: string should have at most 20000 characters"),
    "a seed that is not there": (
        lambda v: mini(v)["stages"]["student"]["runs"].update({"7": {}}),
        r"entries\.mini\.stages\.student\.runs\.7: a seed that its entry does not have",
    ),
    "a value too few": (
        lambda v: mini(v)["stages"]["student"]["runs"]["1001"]["values"].pop(),
        r"runs\.1001: expected 3 values, one for each metric",
    ),
    "a verdict that is none": (
        lambda v: mini(v)["claims"][0].update(verdict="proved"),
        r"claims\.0\.verdict: 'proved' is no verdict; expected one of .*supported",
    ),
    "a margin that is not finite": (
        lambda v: mini(v)["claims"][0].update(margin="Infinity"),
        r"claims\.0\.margin\.?.*: expected a finite number, got inf",
    ),
    "a margin that no float holds": (
        lambda v: mini(v)["claims"][0].update(margin=10**400),
        r"claims\.0\.margin\.?.*: expected a finite number, got 1000000",
    ),
    "a number of 6,000 digits": (
        lambda v: mini(v).update(looked="DIGITS"),
        r"damaged \(ValueError: Exceeds the limit",
    ),
    "a kind of claim that is none": (
        lambda v: mini(v)["claims"][0].update(kind="certain"),
        r"claims\.0: kind: expected one of normal",
    ),
    "parentheses without end": (
        lambda v: mini(v)["claims"][0].update(better="(" * 1_000),
        r"claims\.0: a beats b: '\(+'\.\.\.: 1000 names and signs; expected at most 300",
    ),
    "a difference without its seed": (
        lambda v: mini(v)["claims"][0]["seeds"].pop(),
        r"claims\.0: 3 differences for 2 seeds",
    ),
    "a curve with a point too few": (
        lambda v: mini(v)["stages"]["student"]["curves"]["val/top1"]["low"].pop(),
        r"curves\.val/top1: epoch, mean, low and high: expected lists of one length",
    ),
    "a metric that is a list": (
        lambda v: mini(v)["stages"]["student"]["metrics"].__setitem__(0, [1]),
        r"stages\.student: expected metrics with the names",
    ),
    "a format to come": (lambda v: v.update(format=9), "format=9: expected 2"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_is_named_in_one_line(damage: str, tmp_path: Path) -> None:
    path = written(record(entry(3)), tmp_path)
    value = json.loads(path.read_text())
    change, told = DAMAGES[damage]
    change(value)
    path.write_text(json.dumps(value).replace('"DIGITS"', "9" * 6_000))
    with pytest.raises(InputError, match=told) as raised:
        results.parse(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert str(raised.value).endswith("; restore it with git")
    assert "\n" not in str(raised.value)


def test_a_key_that_stands_twice_is_a_merge_gone_wrong(tmp_path: Path) -> None:
    path = written(record(entry(3)), tmp_path)
    path.write_text(path.read_text().replace('"looked": 3,', '"looked": 3,\n   "looked": 2,'))
    with pytest.raises(InputError, match="the key 'looked' stands twice"):
        results.parse(path)


def old(entry: Entry) -> dict[str, Any]:
    """As format 1 held it: a list for each metric, and the seconds of what ran."""
    plain = json.loads(json.dumps(record(entry).model_dump()))
    stored = plain["entries"]["mini"]
    for stage in stored["stages"].values():
        stage["seconds"] = [value for value in stage["seconds"] if value is not None]
        del stage["cpu_seconds"]
    for key in ("confirmed", "next", "joined"):
        del stored[key]
    del stored["provenance"]["cpu_seconds"]
    del stored["seal"]
    return {**plain, "entries": {"mini": {**stored, "seal": record_old_seal(stored)}}}


def record_old_seal(stored: dict[str, Any]) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()[:16]


def test_a_record_of_the_old_format_is_read_and_its_seal_still_tells(tmp_path: Path) -> None:
    recorded = entry(4)
    for stage in recorded.stages.values():
        stage.cpu_seconds = []
    student = recorded.stages["student"]
    student.fingerprints[3] = student.seconds[3] = None
    for values in student.metrics.values():
        values[3] = None
    value, path = old(recorded), tmp_path / "meal_v2.json"
    path.write_text(json.dumps(value))
    read = results.parse(path).entries["mini"]
    assert read == recorded.model_copy(update={"seal": results.seal(recorded)})
    assert read.stages["student"].seconds == [1.0, 2.0, 3.0, None]

    edited = copy.deepcopy(value)
    mini(edited)["claims"][0]["verdict"] = "supported"
    assert not record_old.is_sealed(mini(edited))
    path.write_text(json.dumps(edited))
    again = results.parse(path).entries["mini"]
    assert again.seal != results.seal(again)

    mini(edited)["stages"]["student"]["metrics"]["test/top1"].pop()
    path.write_text(json.dumps(edited))
    with pytest.raises(InputError, match="student: test/top1: expected a list with a value for each of 4 seeds"):
        results.parse(path)


def test_times_of_a_stage_are_summed_where_they_were_measured() -> None:
    stage = example.stage(3, seconds=[1.0, None, 2.0], cpu_seconds=[4.0, None, 5.0])
    assert (stage.total_seconds(), stage.total_cpu_seconds()) == (3.0, 9.0)
    assert assembly.times({"a": stage, "b": stage}) == (6.0, 18.0)
    by_the_wall = example.stage(3)
    assert by_the_wall.total_cpu_seconds() is None
    assert assembly.times({"a": stage, "b": by_the_wall}) == (9.0, None)
    partly = example.stage(2, cpu_seconds=[1.0, None])
    assert partly.total_cpu_seconds() is None


def test_differences_that_no_float_can_square_have_no_finite_interval() -> None:
    """Not an exception: the deviation is infinite, and the mean is still the mean."""
    assert sequences.deviation([1e300, -1e300]) == math.inf
    assert sequences.mean_of([1.5e308, 1.5e308]) == 1.5e308
    assert sequences.normal([1e300] * 5 + [-1e300]).low == -math.inf


def test_an_altered_record_is_never_sealed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever would write it on ends, and the file stays as it is."""
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    path = written(record(entry(4)), tmp_path)
    results.update("meal_v2", "mini+clean", lambda _: entry(3))  # as it was written, it goes on
    value = json.loads(path.read_text())
    mini(value)["stages"]["student"]["runs"]["1001"]["values"][2] = 99.0
    path.write_text(json.dumps(value))
    altered = path.read_bytes()
    for change in (
        lambda: results.update("meal_v2", "mini", lambda stored: stored or entry(4)),
        lambda: results.update("meal_v2", "full", lambda _: entry(4)),  # also where another entry is the altered one
        lambda: results.tell_again("meal_v2"),
        lambda: onward.recorded("meal_v2", "mini", example.registered("abc"), ["student"]),
    ):
        with pytest.raises(InputError, match="mini: the entry was edited after it was written; restore it with git"):
            change()
    assert path.read_bytes() == altered
