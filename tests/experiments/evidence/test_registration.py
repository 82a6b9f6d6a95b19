"""What is fixed before the first seed, and what a record keeps when it changes."""

from __future__ import annotations

import copy
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.common.errors import InputError
from experiments.config import compose
from experiments.config.claims import Claim, Questions
from experiments.evidence import merge, registration, results
from experiments.evidence.records import Confirmation, Entry, Hardware, Registration
from experiments.running.plan import Plan
from tests import example


def config(*lines: str) -> dict[str, Any]:
    return compose.resolve(compose.compose(compose.request(["paper=meal_v2", *lines]).overrides), 0)


def test_streams_do_not_meet_each_other_or_the_pilots() -> None:
    assert [registration.seed(1, i) for i in range(3)] == [1000, 1001, 1002]
    assert registration.seed(2, 0) == 2000
    assert registration.PILOTS == 1000


@pytest.mark.parametrize(
    "line",
    [
        "stages.student.trainer.max_epochs=61",
        "stages.init.data.train_size=300",
        "~stages.soft",
        "claims=[{name:x,better:student/test/top1,than:init/test/top1,worth:1,main:true}]",
    ],
)
def test_claims_and_recipe_are_in_the_hash(line: str) -> None:
    assert registration.digest(config(line)) != registration.digest(config())


@pytest.mark.parametrize(
    "line", ["trainer=cpu", "data_dir=/elsewhere", "jobs=1", "minutes=3", "most=8", "logger=wandb"]
)
def test_where_and_how_long_it_runs_are_not(line: str) -> None:
    assert registration.digest(config(line)) == registration.digest(config())


def test_a_worth_changed_is_another_registration() -> None:
    before, after = config(), config()
    after["claims"][0]["worth"] = 0.5
    assert registration.digest(before) != registration.digest(after)


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results")
    return tmp_path / "results" / "meal_v2.json"


def entry(stream: int = 1, seeds: int = 6, value: float = 1.0, mark: str = "aa") -> Entry:
    """A record of one claim whose differences are around `value`."""
    tops = {"a": [50 + value + 0.1 * (i % 3) for i in range(seeds)], "b": [50.0] * seeds}
    stages = {
        name: example.stage(seeds, fingerprints=[mark] * seeds, metrics={"test/top1": top})
        for name, top in tops.items()
    }
    numbers = [registration.seed(stream, i) for i in range(seeds)]
    made = example.entry(numbers, looked=min(6, seeds), stages=stages, registered=registered(stream, "h"))
    claim = Claim("a beats b", "a/test/top1", "b/test/top1", worth=1.0, main=True)
    return results.judge(made, Questions([claim], [], []))


def registered(stream: int, digest: str, **more: Any) -> Registration:
    return Registration(**{"hash": digest, "at": "t", "commit": "c", "stream": stream, **more})


def unfinished(stream: int = 1) -> Entry:
    made = entry(stream)
    made.claims[0].verdict = "not run"
    return made


def test_an_unfinished_entry_never_replaces_a_finished_one() -> None:
    stored = entry()
    assert merge.put(unfinished(2), stored, registered(2, "g")) == stored


def test_another_registration_moves_the_old_verdicts_into_the_history() -> None:
    stored = entry(1, value=-2.0)
    kept = merge.put(entry(2, value=3.0), stored, registered(2, "g", why="the loss lacked a term"))
    assert kept.registered.stream == 2
    assert [c.verdict for c in kept.claims] == ["supported"]
    (past,) = kept.history
    assert (past.why, past.seeds) == ("the loss lacked a term", stored.seeds)
    assert past.verdicts["a beats b"].verdict == "refuted"


def test_more_seeds_with_the_same_numbers_go_on() -> None:
    kept = merge.put(entry(seeds=9), entry(seeds=6), registered(1, "h"))
    assert (len(kept.seeds), kept.history) == (9, [])
    assert len(merge.put(entry(seeds=6), entry(seeds=9), registered(1, "h")).seeds) == 9


def test_other_code_is_recorded_again_and_said() -> None:
    kept = merge.put(entry(mark="bb"), entry(mark="aa", value=-2.0), registered(1, "h"))
    assert kept.history[0].why == "recorded again after a change of the code of a, b"
    assert kept.history[0].verdicts["a beats b"].verdict == "refuted"


def test_confirmed_code_is_no_other_code() -> None:
    """A run of it goes on with the record, whose history stays as it was."""
    stored = entry(mark="aa")
    stored.confirmed = {
        name: Confirmation(fingerprint="bb", numbers=1, seed=1000, commit="c", at="t") for name in stored.stages
    }
    assert merge.put(entry(seeds=7, mark="bb"), stored, registered(1, "h")).history == []
    assert merge.other_code(entry(mark="cc"), stored) == ["a", "b"]


def test_another_machine_stands_beside_the_record_never_over_it() -> None:
    stored = entry(value=2.0)
    there = entry(value=1.9)
    there.provenance.hardware = Hardware(cpu="y", cores=8, system="Linux x86_64")
    kept = merge.put(there, stored, registered(1, "h"))
    assert kept.claims == stored.claims
    assert [item.hardware.cpu for item in kept.elsewhere] == ["y"]
    assert kept.elsewhere[0].differs == {"cpu": ["Some CPU", "y"], "cores": [2, 8]}
    assert len(merge.put(there, kept, registered(1, "h")).elsewhere) == 1
    newer = there.model_copy(deep=True)
    newer.provenance.versions = {"torch": "9"}
    assert len(merge.put(newer, kept, registered(1, "h")).elsewhere) == 2


def test_a_registration_is_written_before_the_first_seed(records: Path) -> None:
    resolved = config()
    made = results.register("meal_v2", "mini", resolved)
    written = results.entries("meal_v2")["mini"]
    assert written.registered == made
    assert written.seeds == []
    assert results.register("meal_v2", "mini", resolved) == made  # begun once


def recorded(resolved: dict[str, Any], stream: int = 1, **more: Any) -> Entry:
    stored = entry()
    stored.registered = registered(stream, registration.digest(resolved), **more)
    results.update("meal_v2", "mini", lambda _: stored)
    return stored


def test_a_changed_claim_needs_a_reason_and_gets_the_next_stream(records: Path) -> None:
    resolved = config()
    recorded(resolved)
    assert results.register("meal_v2", "mini", resolved).stream == 1
    changed = copy.deepcopy(resolved)
    changed["claims"][0]["worth"] = 0.5
    with pytest.raises(InputError, match="say in one sentence why"):
        results.register("meal_v2", "mini", changed)
    begun = results.register("meal_v2", "mini", {**changed, "why": "half a point is worth the name"})
    assert (begun.stream, begun.why) == (2, "half a point is worth the name")
    written = results.entries("meal_v2")["mini"]
    assert written.registered.stream == 1  # what is finished stays until the new one is
    assert written.next is not None
    assert written.next.stream == 2
    assert results.register("meal_v2", "mini", changed) == begun


def test_a_recipe_that_is_written_otherwise_keeps_its_registration(records: Path) -> None:
    """Its present hash and the one it was registered under stand for the same experiment."""
    resolved = config()
    stored = recorded(resolved)
    now = registration.digest(resolved)
    stored.registered = registered(1, "0" * 12, rewritten=[now])
    assert registration.current(stored, resolved, "meal_v2/mini") == stored.registered
    assert stored.registered.binds(now)
    assert stored.registered.binds("0" * 12)
    stored.registered.rewritten = []
    assert not stored.registered.binds(now)
    with pytest.raises(InputError, match="say in one sentence why"):
        registration.current(stored, resolved, "meal_v2/mini")


def test_claims_written_after_their_seeds_get_fresh_ones(records: Path) -> None:
    resolved = config()
    recorded(resolved, stream=0, seen=True)
    assert results.register("meal_v2", "mini", resolved).stream == 1


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"key": "meal_v2"}', "\xff\xfe", '{"key":"meal_v2","entries":{"mini":{}}}']
)
def test_a_damaged_record_is_named_and_never_overwritten(records: Path, text: str) -> None:
    records.parent.mkdir()
    records.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"meal_v2\.json"):
        results.register("meal_v2", "mini", config())
    assert records.read_bytes() == text.encode("latin-1")


def _write(folder: str, name: str) -> None:
    results.RESULTS = Path(folder)
    for number in range(25):
        results.update("meal_v2", f"{name} {number}", lambda _: entry())


def test_two_writers_lose_nothing(records: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(str(records.parent), name)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(results.entries("meal_v2")) == 50


def test_one_seed_by_hand_is_not_taken_for_so_many() -> None:
    told = "one seed by hand, number 5; 5 of them would be 'seeds=[0,1,2,3,4]'"
    assert registration.told_of_one([5]) == told
    assert not any(registration.told_of_one(seeds) for seeds in ([3, 1], [0], [1], [6000]))


def test_seeds_by_hand_are_different_whole_numbers(make_plan: Callable[..., Plan]) -> None:
    assert registration.check_seeds([3, 1]) == [3, 1]
    for wrong in ([], [1, 1], [1.5], [True, 0]):
        with pytest.raises(InputError, match="expected different whole numbers"):
            registration.check_seeds(wrong)
