"""A replication follows from its registration: seeds, draws, verdict and word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from experiments.config.claims import Questions
from experiments.config.comparisons import Claim
from experiments.config.trials import Knob
from experiments.evidence import assembly, registration, replication, verdicts
from experiments.evidence.records import Entry, Replication
from tests import example

CLAIM = Claim("a beats b", "a/test/top1", "b/test/top1", worth=1.0, main=True)
QUESTIONS = Questions([CLAIM], [], [])
KNOBS = {"rate": Knob(keys=["stages.*.lr"], times=[0.5, 2])}


def judged(values: list[float], kind: str = "normal") -> Any:
    seeds = list(range(len(values)))
    table = {"a": {"test/top1": dict(zip(seeds, values, strict=True))}, "b": {"test/top1": dict.fromkeys(seeds, 0.0)}}
    return verdicts.judge(CLAIM, table, seeds, len(seeds)).model_copy(update={"kind": kind})


UP, DOWN, WIDE = [5.0, 5.1, 5.2] * 3, [-5.0, -5.1, -5.2] * 3, [9.0, -9.0, 3.0]


@pytest.mark.parametrize(
    ("recorded", "again", "kind", "expected"),
    [
        (UP, UP, "normal", "replicated"),
        (UP, DOWN, "normal", "not replicated"),
        (DOWN, DOWN, "normal", "replicated"),
        (UP, WIDE, "normal", "open"),
        (UP, UP, "exact", "not applicable"),
    ],
)
def test_words(recorded: list[float], again: list[float], kind: str, expected: str) -> None:
    assert replication.word(judged(recorded), judged(again, kind)) == expected


def entry() -> Entry:
    """A recorded entry with a replication that follows from it."""
    registered = example.registered("abcdef012345", filed=True)
    own = replication.basis(registered)
    seeds = [registration.seed(own, index) for index in range(9)]
    metrics = {"a": {"test/top1": [*UP]}, "b": {"test/top1": [0.0] * 9}}
    claim = verdicts.judge(CLAIM, replication.table(seeds, metrics), seeds, 9)
    stages = {name: example.stage(9, metrics={"test/top1": values}) for name, values in (("a", UP), ("b", [0.0] * 9))}
    recorded = example.entry([registration.seed(registered, i) for i in range(9)], stages=stages, registered=registered)
    recorded = assembly.judge(recorded.model_copy(update={"looked": 9}), QUESTIONS)
    drawn = [replication.draw(KNOBS, registered, seed) for seed in seeds]
    found = Replication(
        registered="abcdef012345", seeds=seeds, drawn=drawn, metrics=metrics, claim=claim, word="replicated"
    )
    return recorded.model_copy(update={"replication": found})


EDITS: dict[str, Callable[[Replication], Any]] = {
    "of registration": lambda r: setattr(r, "registered", "another"),
    "are not the first of its stream": lambda r: r.seeds.__setitem__(0, 7),
    "did not draw": lambda r: r.drawn[3].update(rate=1.0),
    "does not follow from its seeds": lambda r: r.metrics["a"]["test/top1"].__setitem__(2, 99.0),
    "does not follow from its verdict": lambda r: setattr(r, "word", "open"),
}


def test_everything_follows() -> None:
    assert list(replication.problems(entry(), QUESTIONS, KNOBS)) == []


@pytest.mark.parametrize("told", EDITS)
def test_what_does_not_follow_is_named(told: str) -> None:
    edited = entry().model_copy(deep=True)
    assert edited.replication is not None
    EDITS[told](edited.replication)
    assert any(told in line for line in replication.problems(edited, QUESTIONS, KNOBS))
