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
from experiments.config.claims import Questions
from experiments.config.comparisons import Claim
from experiments.evidence import assembly, merge, registration, results
from experiments.evidence.ran import Confirmation, Hardware
from experiments.evidence.records import Entry, Registration
from experiments.running.plan import PILOTS, Plan
from tests import example


def config(*lines: str) -> dict[str, Any]:
    return compose.resolve(compose.compose(compose.request(["paper=meal_v2", *lines]).overrides), 0)


def test_seeds_of_registrations_do_not_meet_each_other_or_the_pilots() -> None:
    assert [registration.seed(registered(1, "h"), i) for i in range(3)] == [1000, 1001, 1002]
    assert registration.seed(registered(2, "h"), 0) == 2000
    assert PILOTS == 1000

    filed = [registered(1, digest, filed=True) for digest in ("000000000000", "000001ffffff", "ffffffffffff")]
    firsts = [registration.seed(one, 0) for one in filed]
    assert firsts == [1_000_000, 1_000_064, 1_000_000 + 64 * (16**6 - 1)]
    assert registration.seed(filed[0], 63) == 1_000_063
    assert max(firsts) + 63 < 2**32  # what generators take
    with pytest.raises(InputError, match="a registration has 64"):
        registration.seed(filed[0], 64)


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
    numbers = [registration.seed(registered(stream, "h"), i) for i in range(seeds)]
    recorded = example.entry(numbers, looked=min(6, seeds), stages=stages, registered=registered(stream, "h"))
    claim = Claim("a beats b", "a/test/top1", "b/test/top1", worth=1.0, main=True)
    return assembly.judge(recorded, Questions([claim], [], []))


def registered(stream: int, digest: str, **more: Any) -> Registration:
    return Registration(**{"hash": digest, "at": "t", "commit": "c", "stream": stream, **more})


def unfinished(stream: int = 1) -> Entry:
    recorded = entry(stream)
    recorded.claims[0].verdict = "not run"
    return recorded


def test_an_unfinished_entry_never_replaces_a_finished_one() -> None:
    stored = entry()
    assert merge.put(unfinished(2), stored, registered(2, "g")) == stored


def test_another_registration_moves_the_old_verdicts_into_the_history() -> None:
    stored = entry(1, value=-2.0)
    merged = merge.put(entry(2, value=3.0), stored, registered(2, "g", why="the loss lacked a term"))
    assert merged.registered.stream == 2
    assert [c.verdict for c in merged.claims] == ["supported"]
    (past,) = merged.history
    assert (past.why, past.seeds) == ("the loss lacked a term", stored.seeds)
    assert past.verdicts["a beats b"].verdict == "refuted"


def test_more_seeds_with_the_same_numbers_go_on() -> None:
    merged = merge.put(entry(seeds=9), entry(seeds=6), registered(1, "h"))
    assert (len(merged.seeds), merged.history) == (9, [])
    assert len(merge.put(entry(seeds=6), entry(seeds=9), registered(1, "h")).seeds) == 9


def test_other_code_is_recorded_again_and_said() -> None:
    merged = merge.put(entry(mark="bb"), entry(mark="aa", value=-2.0), registered(1, "h"))
    assert merged.history[0].why == "recorded again after a change of the code of a, b"
    assert merged.history[0].verdicts["a beats b"].verdict == "refuted"


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
    merged = merge.put(there, stored, registered(1, "h"))
    assert merged.claims == stored.claims
    assert [item.hardware.cpu for item in merged.elsewhere] == ["y"]
    assert merged.elsewhere[0].differs == {"cpu": ["Some CPU", "y"], "cores": [2, 8]}
    assert len(merge.put(there, merged, registered(1, "h")).elsewhere) == 1
    newer = there.model_copy(deep=True)
    newer.provenance.versions = {"torch": "9"}
    assert len(merge.put(newer, merged, registered(1, "h")).elsewhere) == 2


def test_another_file_is_another_registration() -> None:
    stored = entry(1, value=-2.0)
    merged = merge.put(entry(1, value=3.0), stored, registered(1, "g", filed=True, why="a commit of its own"))
    assert [item.why for item in merged.history] == ["a commit of its own"]
    assert merge.put(entry(1, value=3.0), merged, registered(1, "g", filed=True)).history == merged.history
    assert len(merge.put(entry(1), merged, registered(1, "f", filed=True)).history) == 2


def test_one_of_the_earlier_rule_binds_while_claims_and_recipe_are_the_same(records: Path) -> None:
    """Its present hash and one it was registered under, written otherwise, stand for the same experiment."""
    resolved = config()
    now = registration.digest(resolved)
    stored = entry()
    stored.registered = registered(1, "0" * 12, rewritten=[now])
    assert registration.earlier(stored, resolved) == stored.registered
    changed = copy.deepcopy(resolved)
    changed["claims"][0]["worth"] = 0.5
    assert registration.earlier(stored, changed) is None
    assert registration.earlier(None, resolved) is None
    stored.registered = registered(0, now, seen=True)  # claims written after their seeds
    assert registration.earlier(stored, resolved) is None


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"key": "meal_v2"}', "\xff\xfe", '{"key":"meal_v2","entries":{"mini":{}}}']
)
def test_a_damaged_record_is_named_and_never_overwritten(records: Path, text: str) -> None:
    records.parent.mkdir()
    records.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=r"meal_v2\.json"):
        results.update("meal_v2", "mini", lambda _: entry())
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
