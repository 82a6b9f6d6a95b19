"""A stale record is lifted by equal numbers alone: of the recorded seed, all of them, to the last bit."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.commands import confirm, reproduce, states
from experiments.common.errors import InputError
from experiments.config import compose
from experiments.evidence import assembly, merge, registration, results, staleness
from experiments.evidence.records import Entry
from experiments.pages import view
from experiments.running.plan import plan_each
from tests import example

pytestmark = pytest.mark.usefixtures("_no_pictures")
PAPER = "case_based_prototypes"
OTHER = "0" * 12  # no stage's fingerprint
COMMITTED = {"commit": "c" * 40, "dirty": False}


@pytest.fixture(scope="module")
def _no_pictures() -> Iterator[None]:
    """Stages draw nothing: that takes as long as their training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.running.training._draw", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def ran(_no_pictures: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, Any], Entry]:
    """What its runs were told, the configuration, and the entry of two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    lines = [f"paper={PAPER}", "scale=smoke", "jobs=1", "seeds=[0,1]", f"runs_dir={folder}"]
    assert reproduce.main(lines) == 0
    config = compose.compose(compose.request(lines).overrides)
    declared = compose.resolve(config, 0)
    entry = assembly.build(plan_each(config, [0, 1]), 2, [], {})
    return lines, declared, entry.model_copy(update={"registered": example.registered(registration.digest(declared))})


@pytest.fixture
def record(ran: tuple[list[str], dict[str, Any], Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes the entry as if it had been recorded by other code, after an edit."""
    _, _, made = ran
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    monkeypatch.setattr(confirm, "code_version", lambda: COMMITTED)

    def write(edit: Any = lambda entry: None) -> Entry:
        entry = made.model_copy(deep=True)
        for stage in entry.stages.values():
            stage.fingerprints = [OTHER, OTHER]
        edit(entry)
        results.update(PAPER, "smoke", lambda _: entry)
        return stored()

    return write


def stored() -> Entry:
    return results.entries(PAPER)["smoke"]


def confirm_it(ran: tuple[list[str], Any, Any]) -> int:
    runs = next(line for line in ran[0] if line.startswith("runs_dir="))
    return confirm.main([f"paper={PAPER}", "scale=smoke", "jobs=1", runs])


def test_equal_numbers_lift_it(ran: Any, record: Any) -> None:
    entry = record()
    assert set(staleness.stale(PAPER, entry)) == set(entry.stages)
    assert confirm_it(ran) == 0
    after = stored()
    assert staleness.stale(PAPER, after) == []
    assert entry == after.model_copy(update={"confirmed": {}, "seal": entry.seal})  # nothing else moved
    (line,) = view.of(after).confirmed
    count = sum(len(stage.metrics) for stage in entry.stages.values())
    assert f"{'c' * 10}: seed 0 run anew gave the same {count} numbers" in line


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_seed_that_is_run_anew_stands_under_its_registration(record: Any, by_hand: bool) -> None:
    """Its runs are found by whoever records further seeds in the same folder."""

    def choose(entry: Entry) -> None:
        entry.registered.by_hand = by_hand

    entry = record(choose)
    _, chosen = confirm._Confirmation(PAPER, "smoke", ["scale=smoke"])._plan()
    assert chosen.seed == entry.seeds[0]
    assert chosen.registered == (None if by_hand else entry.registered.hash)


def test_once_the_code_moves_again_it_is_stale_again(ran: Any, record: Any) -> None:
    record()
    confirm_it(ran)
    entry = stored()
    name = next(iter(entry.confirmed))
    entry.confirmed[name].fingerprint = OTHER
    assert staleness.stale(PAPER, entry) == [name]


def test_confirmed_code_is_the_same_code_where_records_are_written(ran: Any, record: Any) -> None:
    """What anybody's run finds after it goes on with the record, or stands beside it; it replaces nothing."""
    stale = record()
    again = ran[2]  # by the present code
    pushed_out = merge.put(again, stale, stale.registered)
    assert "a change of the code of" in pushed_out.history[0].why

    confirm_it(ran)
    confirmed = stored()
    assert merge.other_code(again, confirmed) == []
    assert merge.put(again, confirmed, confirmed.registered).history == []

    name = next(iter(confirmed.confirmed))
    confirmed.confirmed[name].fingerprint = OTHER
    assert merge.other_code(again, confirmed) == [name]


def test_one_number_in_its_last_bit_keeps_it(ran: Any, record: Any, capsys: pytest.CaptureFixture[str]) -> None:
    name, metric = next((n, m) for n, stage in ran[2].stages.items() for m in stage.metrics)

    def edit(entry: Entry) -> None:
        first, second = entry.stages[name].metrics[metric]
        assert first is not None
        entry.stages[name].metrics[metric] = [math.nextafter(first, math.inf), second]

    entry = record(edit)
    assert confirm_it(ran) == 1
    assert stored() == entry
    assert "stays stale: 1 numbers of seed 0 differ" in capsys.readouterr().out


@pytest.mark.parametrize("moved", [False, True])
def test_on_another_machine_the_recorded_code_is_compared_with(
    ran: Any, record: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], moved: bool
) -> None:
    """The record differs by rounding alone; here the recorded commit gives what the present code does."""
    here = {name: {m: values[0] for m, values in stage.metrics.items()} for name, stage in ran[2].stages.items()}
    name, metric = next((n, m) for n, metrics in here.items() for m in metrics)

    def edit(entry: Entry) -> None:
        metrics = entry.stages[name].metrics
        metrics[metric] = [math.nextafter(value, math.inf) for value in metrics[metric] if value is not None]
        entry.provenance.code.commit = "e" * 40
        entry.provenance.hardware.cpu = "another"

    asked: list[Any] = []

    @contextlib.contextmanager
    def checked_out(revision: str) -> Iterator[Path]:
        asked.append(revision)
        yield Path("nowhere")

    def run_in(tree: Path, seed: int, words: list[str]) -> dict[str, states.Done]:
        asked.append((seed, f"paper={PAPER}" in words))
        past = {n: dict(metrics) for n, metrics in here.items()}
        past[name][metric] += 1.0 if moved else 0.0
        return {n: states.Done(OTHER, metrics) for n, metrics in past.items()}

    monkeypatch.setattr(states, "checked_out", checked_out)
    monkeypatch.setattr(states, "run_in", run_in)
    entry = record(edit)
    assert confirm_it(ran) == moved
    assert asked == ["e" * 40, (0, True)]
    assert "not another: the recorded code runs here too" in capsys.readouterr().out.replace("\n", " ")
    if moved:
        assert stored() == entry
    else:
        (line,) = view.of(stored()).confirmed
        assert "as eeeeeeeeee does on" in line
        assert staleness.stale(PAPER, stored()) == []


def test_another_recipe_cannot_be_confirmed(ran: Any, record: Any, capsys: pytest.CaptureFixture[str]) -> None:
    entry = record(lambda e: setattr(e.registered, "hash", "another"))
    assert confirm_it(ran) == 1
    assert stored() == entry
    assert "its claims or recipe are other ones now" in capsys.readouterr().out


def test_code_that_no_commit_names_confirms_nothing(record: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record()
    monkeypatch.setattr(confirm, "code_version", lambda: {**COMMITTED, "dirty": True})
    with pytest.raises(InputError, match="commit it first"):
        confirm.main([f"paper={PAPER}", "scale=smoke"])
    with pytest.raises(InputError, match="paper=K is missing"):
        confirm.main([])
    monkeypatch.setattr(confirm, "code_version", lambda: COMMITTED)
    with pytest.raises(InputError, match=r"trainer\.precision=bf16-mixed: a record is confirmed as it was recorded"):
        confirm.main([f"paper={PAPER}", "scale=smoke", "trainer.precision=bf16-mixed"])
    with pytest.raises(InputError, match=r"entry 'mini\+mnsit' does not exist.*Valid: smoke"):
        confirm.main([f"paper={PAPER}", "variant=mnsit"])
