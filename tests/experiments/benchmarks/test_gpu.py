"""`make gpu`: what is asked of a card, how it goes on, and what is written. A processor stands in for the card."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.benchmarks import asked, gpu
from experiments.benchmarks.asked import Item
from experiments.common.errors import InputError
from experiments.config.networks import Pair
from experiments.evidence import hardware, results
from experiments.evidence.hardware import Beside, Card, Failed, Row, Smoke, Steps, Switch
from experiments.evidence.ran import Code
from experiments.pages import hardware as pages
from experiments.running import preconditions
from experiments.running.plan import Plan

STEPS = Steps(
    batch=64,
    published=256,
    step=0.5,
    load=0.1,
    beside=True,
    memory=2**31,
    memory_published=2**33,
    steps=1800,
    hours=1.0,
    real=False,
    at_least=True,
)


def answer(item: Item, accelerator: str) -> Beside:
    """As items say: an exception, a killed process, one that takes too long, or a result."""
    if item.what == "raises":
        raise ValueError("of its own")
    if item.what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if item.what == "slow":
        time.sleep(60)
    return Beside(what=f"{item.what} on {accelerator}", batch=1, theirs=2.0, ours=1.0)


def test_what_raises_or_is_killed_costs_itself_alone() -> None:
    items = [Item("beside", "k", what) for what in ("raises", "good", "killed", "better")]
    found = [result for _, _, result in gpu.results(items, time.monotonic() + 500, answer, "cpu")]
    assert isinstance(found[0], Failed)
    assert "of its own" in found[0].reason
    assert isinstance(found[1], Beside)
    assert found[1].what == "good on cpu"
    assert found[2] == Failed(reason="its process was killed, as a machine does that runs out of memory")
    assert isinstance(found[3], Beside)


def test_one_thing_has_a_limit_and_so_has_a_call() -> None:
    slow = Item("beside", "k", "slow")
    (told,) = gpu.results([slow], time.monotonic() + 500, answer, "cpu", limit=0.2)
    assert told[2] == Failed(reason="given up after 0 s")
    cut = gpu.results([slow, Item("beside", "k", "good")], time.monotonic() + 0.2, answer, "cpu")
    assert list(cut) == [], "what a call has no time for is left to the next one"


def row(item: Item, found: Steps | Failed, commit: str | None = None) -> Row:
    part, paper, what, how = item.key
    code = Code(commit=commit, dirty=False)
    return Row(part=part, paper=paper, what=what, how=how, at="2026-11-30T10:00:00", code=code, seconds=2, found=found)


def card(*rows: Row) -> Card:
    return Card(name="NVIDIA Some-100 80GB", memory=80 * 2**30, cpu="a processor", versions={}, asked=2, rows=[*rows])


FIRST, SECOND = Item("steps", "meal_v2", "student", "32-true"), Item("steps", "meal_v2", "student", "bf16-mixed")


def test_a_call_goes_on_with_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_code", lambda: Code(commit="b", dirty=False))
    assert gpu.unmeasured([FIRST, SECOND], card()) == [FIRST, SECOND]
    assert gpu.unmeasured([FIRST, SECOND], card(row(FIRST, STEPS, "a"))) == [SECOND]
    failed = Failed(reason="of its own")
    assert gpu.unmeasured([FIRST], card(row(FIRST, failed, "b"))) == []
    assert gpu.unmeasured([FIRST], card(row(FIRST, failed, "a"))) == [FIRST], "other code may not fail"


def test_each_result_is_written_before_the_next_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    this, place = card(), tmp_path / "card.json"
    seen: list[int] = []

    def one_by_one(*_: object) -> object:
        for item in (FIRST, SECOND):
            seen.append(len(hardware.read(place).rows) if place.exists() else 0)  # type: ignore[union-attr]
            yield item, 1.04, STEPS

    monkeypatch.setattr(gpu, "results", one_by_one)
    gpu.measure(this, [FIRST, SECOND], place, 10, answer, "cpu")
    assert seen == [0, 1]
    read = hardware.read(place)
    assert read == this
    assert read is not None
    assert [kept.found for kept in read.rows] == [STEPS, STEPS]
    assert read.seconds == pytest.approx(2.0)


def test_a_new_row_takes_the_place_of_the_old_one() -> None:
    this = card(row(FIRST, Failed(reason="once")), row(SECOND, STEPS))
    this.put(row(FIRST, STEPS))
    assert [kept.key for kept in this.rows] == [SECOND.key, FIRST.key]
    assert all(kept.found == STEPS for kept in this.rows)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    assert hardware.path("NVIDIA H100 80GB HBM3", tmp_path).name == "nvidia-h100-80gb-hbm3.json"
    place = tmp_path / "card.json"
    hardware.write(card(row(FIRST, STEPS)), place)
    place.write_text(place.read_text(encoding="utf-8").replace('"load"', '"loads"'), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"card\.json: rows\.0\.found\.steps: key 'loads' does not exist; did you mean"
    ):
        hardware.read(place)


def test_numbers_of_both_devices_are_compared_by_relative_differences() -> None:
    """Of 1, 2 and 4: 1%, 0 and 20% apart by the larger one; the median is 1%."""
    here = {"a": 1.0, "b": 2.0, "c": 4.0}
    there = {"a": 0.99, "b": 2.0, "c": 5.0}
    told = hardware.compare(here, there, tolerance=0.02)
    assert (told.metrics, told.median, told.largest, told.where) == (3, pytest.approx(0.01), pytest.approx(0.2), "c")
    assert told.agrees
    assert not hardware.compare(here, there, tolerance=0.005).agrees
    lost = hardware.compare({**here, "d": 1.0, "e": 1.0}, {**there, "d": float("nan")}, tolerance=0.02)
    assert lost.strange == ["d", "e"]
    assert not lost.agrees
    assert not hardware.compare({}, {}, tolerance=1).agrees, "nothing was compared"


def test_results_are_told_in_words() -> None:
    assert pages.in_words(STEPS) == (
        "batch 64 of 256: 0.5 s a step, 128 images a second, 2.0 GiB, 8.0 expected at 256; "
        "one seed at least 1.0 h (generated batches)"
    )
    beside = Beside(what="training step", batch=32, theirs=0.02, ours=0.03)
    assert pages.in_words(beside) == "training step of 32 images: 30 ms, 1.50 of the other's"
    switch = Switch(batch=8, off=0.2, on=0.1, memory_off=100, memory_on=110)
    assert pages.in_words(switch) == "step of 8 images: 100 ms, 0.50 of off; memory 1.10 of off"
    smoke = Smoke(metrics=1, median=0.1, largest=0.1, where="a", tolerance=0.01)
    assert pages.in_words(smoke).startswith("differs: 1 metrics")


def test_a_page_shows_what_is_in_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    assert pages.of_paper("meal_v2") == []
    hardware.write(card(row(FIRST, STEPS, "0123456789")), hardware.path("Some"))
    (shown,) = pages.of_paper("meal_v2")
    assert (shown.name, shown.memory) == ("NVIDIA Some-100 80GB", "80 GiB")
    assert shown.rows[0].what == "steps of full recipes, student, 32-true"
    assert shown.rows[0].measured == "2026-11-30 01234567"
    assert pages.of_paper("rotnet") == []


def test_what_is_asked_goes_over_all_papers_before_it_goes_deep(monkeypatch: pytest.MonkeyPatch) -> None:
    network = {"_target_": "torch.nn.Identity"}
    pair = Pair(name="small", ours=network, theirs=network, input=[1, 8, 8])
    monkeypatch.setattr(asked, "full", lambda paper: paper)
    monkeypatch.setattr(asked, "stages", lambda paper, most: {"one": ["a", "b"], "two": ["c"]}[paper][:most])
    monkeypatch.setattr(asked, "pairs", lambda paper: [pair] if paper == "one" else [])
    listed = [str(item) for item in asked.items(["one", "two"], asked.PARTS, 2)]
    assert listed[:5] == [
        "refusal",
        "smoke one 32-true",
        "smoke one bf16-mixed",
        "smoke two 32-true",
        "smoke two bf16-mixed",
    ]
    stages = [line.split()[1:3] for line in listed if line.startswith("steps")]
    assert stages[::2] == stages[1::2] == [["one", "a"], ["two", "c"], ["one", "b"]]
    assert [line for line in listed if line.startswith("beside")] == [
        "beside one small 32-true",
        "beside one small bf16-mixed",
    ]
    assert listed[-2:] == ["switch one a compile", "switch two c compile"]


def test_stages_of_one_network_are_timed_once_and_the_main_claims_first() -> None:
    this = asked.full("meal_v2")
    names = asked.stages(this, 99)
    main = [name for name in this.stages if name in names[:1]]
    assert main == names[:1]
    assert all(this.stages[name].fit for name in names)
    doubled = replace(this, stages={**this.stages, "again": replace(this.stages[names[0]], name="again")})
    assert asked.stages(doubled, 99) == names


def test_two_processes_on_one_card_are_refused(make_plan: Callable[..., Plan]) -> None:
    with pytest.raises(InputError, match=r"trainer\.devices=\[0, 0\]: expected each device once"):
        preconditions.check([make_plan("paper=rotnet", "trainer=cpu", "trainer.devices=[0,0]")])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["papers=zpe"], "option 'papers' does not exist; did you mean 'paper'?"),
        (["parts=smokes"], "part 'smokes' does not exist; did you mean 'smoke'?"),
        (["minutes=none"], "minutes=none: expected a number above 0"),
        (["accelerator=tpu"], "accelerator=tpu: expected gpu or cpu"),
    ],
)
def test_wrong_input_is_named(words: list[str], told: str) -> None:
    with pytest.raises(InputError) as caught:
        gpu.main(words)
    assert told in str(caught.value)


@pytest.mark.slow
def test_a_processor_stands_in_for_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of each part, whole; what it writes is no record."""
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    words = ["accelerator=cpu", "paper=cifake", "parts=refusal,smoke,steps", "minutes=20"]
    assert gpu.main(words) == 0
    (place,) = (tmp_path / "runs" / "hardware").glob("*.json")
    this = hardware.read(place)
    assert this is not None
    kinds = [kept.found.kind for kept in this.rows]
    assert kinds == ["refusal", "smoke", "smoke", "steps", "steps"]
    same = this.rows[1].found
    assert isinstance(same, Smoke)
    assert same.largest == 0.0, "fp32 on the processor beside itself"
    assert len({kept.found.published for kept in this.rows if isinstance(kept.found, Steps)}) == 1
