"""Seeds in which an arm is dead: when they start again, what is judged, and what of it a record must show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from experiments.common.errors import InputError
from experiments.config import claims
from experiments.config.claims import Questions
from experiments.config.comparisons import Claim
from experiments.config.expressions import Missing, Table
from experiments.config.written import read
from experiments.evidence import assembly, layout, order, registration, restarts, results, statements, verdicts
from experiments.evidence.judged import JudgedClaim
from experiments.evidence.records import Entry, Record, Restart
from experiments.running.plan import AGAIN
from tests import example

ASKED = {"name": "a beats b", "better": "a/test/top1", "than": "b/test/top1", "worth": 1.0, "main": True}
CLAIM = Claim(**ASKED, dead="train/top1 < 12")
QUESTIONS = Questions([CLAIM], [], [])
SEEDS = list(range(6))
A, B = [52.0, 51.5, 52.5, 51.8, 52.2, 52.0], [50.0, 10.0, 50.0, 50.0, 50.0, 50.0]  # b is dead in seed 1
STAGES = ("a", "b", "init")


def table(a: list[float] = A, b: list[float] = B) -> Table:
    """Arms whose training accuracy is their test accuracy, and a network that is not trained."""
    values = {"a": {"train/top1": a, "test/top1": a}, "b": {"train/top1": b, "test/top1": b}}
    named = {**values, "init": {"test/top1": [10.0] * len(a)}}
    return {
        stage: {metric: dict(zip(SEEDS, column, strict=True)) for metric, column in by.items()}
        for stage, by in named.items()
    }


def attempt(of: int, number: int, a: float, b: float, **more: Any) -> Restart:
    arms = {"a": {"train/top1": a, "test/top1": a}, "b": {"train/top1": b, "test/top1": b}}
    facts: dict[str, Any] = {
        "of": of,
        "attempt": number,
        "seed": restarts.seed(of, number),
        "fingerprints": dict.fromkeys(arms, "0123456789ab"),
        "seconds": dict.fromkeys(arms, 1.0),
        "metrics": arms,
    }
    return Restart(**facts | more)


ALIVE = [attempt(1, 1, 52.4, 50.0)]
DEAD_TWICE = [attempt(1, 1, 11.0, 50.0), attempt(1, 2, 52.0, 11.9)]


def judge(tries: list[Restart], claim: Claim = CLAIM) -> JudgedClaim:
    return restarts.judge(claim, table(), SEEDS, len(SEEDS), tries)


def test_a_try_has_a_seed_of_its_own_above_all_registrations() -> None:
    highest = registration.seed(example.registered("ffffffffffff", filed=True), 63)
    seeds = {restarts.seed(of, number) for of in (1, 1000, highest) for number in (1, 2)}
    assert len(seeds) == 6
    assert highest < AGAIN <= min(seeds)
    assert max(seeds) < 2**31  # what every library takes as a seed
    assert restarts.seed(1, 1) == AGAIN + 0x65EFE6C  # fixed: another rule would lose what was recorded


def test_an_arm_is_dead_by_its_own_training_metric() -> None:
    assert restarts.dead_arms(CLAIM, STAGES, table(), 1) == ["b"]
    assert restarts.dead_arms(CLAIM, STAGES, table(), 0) == []
    both = table(a=[11.99, *A[1:]], b=[12.0, *B[1:]])
    assert restarts.dead_arms(CLAIM, STAGES, both, 0) == ["a"]  # below 12, not at it
    loss = Claim(**ASKED, dead="train/loss > 2.3")
    with pytest.raises(Missing, match="none of a, b reports train/loss"):
        restarts.dead_arms(loss, STAGES, table(), 1)
    with pytest.raises(Missing, match="b did not finish for seed 1"):
        restarts.dead_arms(CLAIM, STAGES, {"a": table()["a"]}, 1)


def test_what_is_not_trained_cannot_be_dead_and_every_rival_can() -> None:
    rivals = Claim(**ASKED | {"than": {"hard": "a/test/top1 - 1", "none": "init/test/top1", "b": "b/test/top1"}})
    asked = Claim(**vars(rivals) | {"dead": CLAIM.dead})
    assert asked.arms(STAGES) == ["a", "init", "b"]
    assert restarts.dead_arms(asked, STAGES, table(), 1) == ["b"]  # init, at 10 percent, is not asked


def test_the_last_try_is_judged_and_the_first_ones_stand_beside() -> None:
    """Without the dead seed, differences of 2, 2.4, 2.5, 1.8, 2.2, 2: mean 12.9 / 6; with it 41.5 in place of 2.4."""
    judged = judge(ALIVE)
    assert judged.per_seed == pytest.approx([2.0, 2.4, 2.5, 1.8, 2.2, 2.0])
    assert judged.difference == pytest.approx(12.9 / 6)
    assert (judged.verdict, judged.restarted, judged.still_dead) == ("supported", [1], [])
    beside = judged.without_restarts
    assert beside is not None
    assert beside == verdicts.judge(CLAIM, table(), SEEDS, 6).short()
    assert (beside.verdict, beside.difference) == ("undecided", pytest.approx((10.5 + 41.5) / 6))


def test_a_seed_that_stays_dead_stays_in_the_difference() -> None:
    judged = judge(DEAD_TWICE)
    assert judged.per_seed[1] == pytest.approx(52.0 - 11.9)
    assert (judged.restarted, judged.still_dead, judged.verdict) == ([1], [1], "undecided")


def test_a_try_that_did_not_finish_leaves_the_claim_unjudged() -> None:
    lost = attempt(1, 1, 52.0, 50.0)
    lost.metrics["b"] = {}
    judged = judge([lost])
    assert (judged.verdict, judged.reason) == ("not run", "b did not finish for seed 1")
    assert list(restarts.problems(CLAIM, STAGES, table(), SEEDS, [lost])) == []


def test_a_limit_that_no_arm_reports_is_not_passed_over() -> None:
    judged = judge([], Claim(**ASKED, dead="train/disc > 0.69"))
    assert (judged.verdict, judged.reason) == ("not run", "dead: none of a, b reports train/disc")


def test_where_no_arm_is_dead_nothing_but_the_rule_is_said() -> None:
    healthy = table(b=[50.0] * 6)
    plain = verdicts.judge(Claim(**ASKED), healthy, SEEDS, 6)
    judged = restarts.judge(CLAIM, healthy, SEEDS, 6)
    said = {key for key, value in judged.model_dump().items() if value != plain.model_dump()[key]}
    assert said == {"dead", "rule"}
    assert judged.rule.startswith(plain.rule)
    assert "dead" not in Claim(**ASKED).content()
    assert not {"dead", "restarted", "still_dead", "without_restarts"} & set(plain.plain())
    assert CLAIM.content()["dead"] == judged.claim().content()["dead"] == "train/top1 < 12"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"dead": "test/top1 < 12"}, "expected a training metric and a limit, as in train/top1 < 12"),
        ({"dead": "a/train/top1 < 12"}, "expected a training metric and a limit"),
        ({"dead": "train/top1 < b/train/top1"}, "expected a training metric and a limit"),
        ({"main": False}, "dead is said with the main claim"),
        ({"kind": "share", "than": 0.5}, "kind share has no seeds that start again"),
        ({"kind": "exact"}, "kind exact has no seeds that start again"),
    ],
)
def test_limits_that_make_no_sense_are_refused(more: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(Claim, ASKED | {"dead": "train/top1 < 12"} | more, "claims.0")


def test_a_seed_never_starts_again_for_what_the_claim_compares() -> None:
    asked = ASKED | {"better": "a/train/top1", "than": "b/test/top1", "dead": "train/top1 < 12"}
    with pytest.raises(InputError, match="train/top1 is what the claim compares"):
        claims._check_dead(read(Claim, asked, "claims.0"), "claims.0.dead")


def test_every_trained_arm_must_report_the_metric() -> None:
    check = claims.check_reported
    check(QUESTIONS, "mini", STAGES, "a", ["train/top1", "test/top1"])
    check(QUESTIONS, "mini", STAGES, "a", ["test/top1"])  # not trained
    with pytest.raises(InputError, match=r"dead: a: metric 'train/top1' does not exist"):
        check(QUESTIONS, "mini", STAGES, "a", ["train/loss", "test/top1"])
    check(QUESTIONS, "mini", STAGES, "init", ["train/loss", "test/top1"])  # no arm of the claim


# --- records ---------------------------------------------------------------------------------------------------------


def entry(tries: list[Restart], questions: Questions = QUESTIONS) -> Entry:
    """A recorded entry with these further tries."""
    values = table()
    stages = {
        name: example.stage(6, metrics={metric: list(column.values()) for metric, column in values[name].items()})
        for name in STAGES
    }
    registered = example.registered("abc")
    return assembly.judge(example.entry(SEEDS, stages=stages, registered=registered, restarts=tries), questions)


def problems(recorded: Entry) -> list[str]:
    main = recorded.main_claim()
    assert main is not None
    return list(restarts.problems(main.claim(), recorded.stages, recorded.table(), recorded.seeds, recorded.restarts))


def test_a_record_holds_every_try_and_reads_back() -> None:
    recorded = entry(DEAD_TWICE)
    assert problems(recorded) == []
    record = Record(key="k", title="t", arxiv=None, about="", deviations=[], entries={"mini": recorded})
    again = Record.model_validate(layout.read(layout.from_text(layout.text(record)))).entries["mini"]
    assert again == recorded
    assert results.seal(again) == results.seal(recorded)
    assert assembly.judge(again, QUESTIONS).claims == recorded.claims
    assert "restarts" not in entry([], Questions([Claim(**ASKED)], [], [])).plain()


FORGED: dict[str, Callable[[list[Restart]], Any]] = {
    "and it did not start again": lambda tries: tries.pop(),
    "expected them in order": lambda tries: tries.pop(0),
    "at most 2": lambda tries: tries.append(attempt(1, 3, 52.0, 50.0)),
    "ran with seed 7, not": lambda tries: setattr(tries[0], "seed", 7),
    "started again although no arm was dead": lambda tries: tries[0].metrics["a"].update({"train/top1": 12.0}),
    "seed 0 started again although": lambda tries: tries.append(attempt(0, 1, 52.0, 50.0)),
    "seed 9 started again and is none": lambda tries: tries.append(attempt(9, 1, 52.0, 50.0)),
}


@pytest.mark.parametrize("told", FORGED)
def test_tries_that_do_not_follow_are_named(told: str) -> None:
    tries = [item.model_copy(deep=True) for item in DEAD_TWICE]
    FORGED[told](tries)
    assert any(told in line for line in problems(entry(tries)))


def test_tries_without_a_rule_are_named() -> None:
    (line,) = problems(entry(ALIVE, Questions([Claim(**ASKED)], [], [])))
    assert line == "seed 1 started again, and no rule says when"


def test_a_try_under_another_registration_or_with_no_fingerprint_is_named() -> None:
    forged = attempt(1, 1, 52.0, 50.0, under=["none"], fingerprints={"a": "0123456789ab", "b": "so"})
    assert "try 1 of seed 1 ran under registration none, not abc" in list(statements.under(entry([forged])))
    assert any("try 1 of seed 1: 'so' is no fingerprint" in line for line in statements.shapes(entry([forged])))


def test_a_committed_try_stays_what_it_was() -> None:
    before = {"restarts": [item.plain() for item in DEAD_TWICE]}
    assert list(order._moved_tries(before, before)) == []
    changed = {"restarts": [attempt(1, 1, 11.0, 50.5).plain()]}
    assert list(order._moved_tries(before, changed)) == [
        "try 1 of seed 1 is another one now",
        "try 2 of seed 1 is gone",
    ]
