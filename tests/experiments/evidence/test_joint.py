"""Rivals and several outcomes: one verdict from several comparisons."""

from __future__ import annotations

import json
from typing import Any

import pytest

from experiments.commands import check_results
from experiments.common.errors import InputError
from experiments.config.claims import Questions
from experiments.config.comparisons import Claim
from experiments.config.expressions import Table
from experiments.config.written import read
from experiments.evidence import assembly, joint, merge, rules, sequences, suite, verdicts
from experiments.evidence.judged import JudgedClaim
from experiments.evidence.records import Entry, HistoryItem
from experiments.pages import view
from tests import example

SIX = [-0.05, 0.03, 0.05, -0.03, 0.02, -0.02]  # half of the interval is 0.0753
WIDE = [30 * value for value in SIX]  # 2.26
RIVALS = {"name": "a beats b", "better": "a/test/x", "than": {"hard labels": "b/test/x", "soft alone": "c/test/x"}}


def claim(**options: Any) -> Claim:
    return read(Claim, {**RIVALS, "worth": 1.0, **options}, "claims.0")


def table(**differences: list[float]) -> Table:
    """Arm a is at 50; the others so much below it."""
    arms = {name: {"test/x": dict(enumerate(50 - d for d in values))} for name, values in differences.items()}
    return {"a": {"test/x": dict.fromkeys(range(6), 50.0)}, **arms}


def around(centre: float, noise: list[float] = SIX) -> list[float]:
    return [centre + value for value in noise]


def judged(b: list[float], c: list[float], **options: Any) -> JudgedClaim:
    return verdicts.judge(claim(**options), table(b=b, c=c), range(6), 6)


@pytest.mark.parametrize(
    ("baseline", "rival", "verdict", "reason"),
    [
        (around(2), around(2), "supported", ""),
        (around(2), around(0.5), "supported", "against soft alone by less than is worth the name"),
        (around(2), around(0), "effect only", "no gain against soft alone"),
        (around(2), around(-2), "effect only", "refuted against soft alone"),
        (around(0), around(2), "no gain", "none either way"),
        (around(-2), around(2), "refuted", ""),
        (around(-2), around(0), "refuted", ""),
        (around(2), around(2, WIDE), "undecided", "against soft alone: ± 2.26 points; about 7 seeds would decide"),
        (around(0.6, WIDE), around(2, WIDE), "undecided", "against hard labels: ± 2.26 points; about"),
        (
            around(1, WIDE),
            around(0),
            "undecided",
            "against hard labels: ",
        ),  # the rival's no gain waits for the baseline
        (around(-2), around(0.6, WIDE), "refuted", ""),  # a rival that is open cannot change it
    ],
)
def test_the_first_condition_that_fits(baseline: list[float], rival: list[float], verdict: str, reason: str) -> None:
    actual = judged(baseline, rival)
    assert actual.verdict == verdict, actual
    assert actual.reason.startswith(reason)
    assert bool(actual.needed) == (verdict == "undecided")
    assert actual.per_seed == pytest.approx(baseline)
    assert [item.name for item in actual.against] == ["hard labels", "soft alone"]
    assert actual.against[1].per_seed == pytest.approx(rival)
    assert actual.against[0].interval == actual.interval


def test_each_comparison_is_what_it_is_alone() -> None:
    actual = judged(around(2), around(0.6, WIDE))
    for item, than in zip(actual.against, ("b/test/x", "c/test/x"), strict=True):
        alone = verdicts.judge(claim(than=than), table(b=around(2), c=around(0.6, WIDE)), range(6), 6)
        assert (item.than, item.per_seed, item.interval, item.verdict) == (
            than, alone.per_seed, alone.interval, alone.verdict,
        )  # fmt: skip
        assert alone.against == []
        assert "against" not in alone.plain()


def test_seeds_needed_are_those_of_the_comparison_that_is_furthest_from_a_decision() -> None:
    """Half-widths below 2 and below 1.4 would decide; the second takes more seeds, in either place."""
    near, far = around(2, WIDE), around(0.6, WIDE)
    expected = sequences.seeds_needed(far, max(0.6, 1 - 0.6))
    assert judged(near, far).needed == judged(far, near).needed == pytest.approx(expected)
    assert judged(near, far).needed > sequences.seeds_needed(near, 2.0)


def test_evidence_is_the_smallest_of_the_comparisons() -> None:
    strong, weak = around(2), around(0.2)
    expected = sequences.normal_evidence(weak, 0.0)
    assert judged(strong, weak).evidence == judged(weak, strong).evidence == pytest.approx(expected)


def test_lower_is_better_against_every_rival() -> None:
    assert judged(around(-2), around(-2), lower_is_better=True).verdict == "supported"
    assert judged(around(-2), around(2), lower_is_better=True).verdict == "effect only"


def test_exact_rivals_and_shares() -> None:
    exact = {"kind": "exact", "worth": None}
    assert judged([1.0] * 6, [2.0] * 6, **exact).verdict == "holds"
    assert judged([1.0] * 6, [0.0] * 6, **exact).verdict == "effect only"
    assert judged([0.0] * 6, [1.0] * 6, **exact).verdict == "fails"
    hit = {"a": {"test/x": dict.fromkeys(range(20), 1.0)}}
    coin = claim(kind="share", than={"a coin": 0.5, "a guess": 0.7}, worth=0.1)
    assert verdicts.judge(coin, hit, range(20), 20).verdict == "supported"
    almost = claim(kind="share", than={"a coin": 0.5, "a good guess": 0.95}, worth=0.04)
    assert verdicts.judge(almost, hit, range(20), 20).verdict == "undecided"


def test_a_seed_counts_where_every_comparison_has_it() -> None:
    values = table(b=around(2), c=around(2)[:4])
    assert verdicts.judge(claim(), values, range(6), 4).seeds == [0, 1, 2, 3]
    assert verdicts.judge(claim(), values, range(6), 6).reason == "c did not finish for seed 4"
    assert verdicts.judge(claim(main=True), values, range(6), 4).verdict == "not run"


def test_a_precondition_comes_first() -> None:
    actual = judged(around(2), around(0), requires=["a/test/x < 10"])
    assert actual.verdict == "untested"
    assert [item.verdict for item in actual.against] == ["supported", "no gain"]


OUTCOMES = [
    {"name": "as accurate", "better": "a/test/x", "than": "b/test/x", "within": 0.5},
    {"name": "faster", "better": "a/test/x", "than": "c/test/x", "worth": 1.0, "unit": "ms", "lower_is_better": True},
]


def together(accurate: list[float], faster: list[float], **second: Any) -> JudgedClaim:
    outcomes = [OUTCOMES[0], {**OUTCOMES[1], **second}]
    both = read(Claim, {"name": "as accurate and faster", "main": True, "all": outcomes}, "claims.0")
    return verdicts.judge(both, table(b=accurate, c=[-d for d in faster], d=around(-2)), range(6), 6)


@pytest.mark.parametrize(
    ("accurate", "faster", "verdict", "reason"),
    [
        (around(0), around(2), "supported", ""),
        (around(0), around(0.5), "supported", "faster by less than is worth the name"),
        (around(2), around(2), "refuted", "as accurate refuted"),
        (around(0), around(-2), "refuted", "faster refuted"),
        (around(0), around(0), "no gain", "faster no gain"),
        (around(0, WIDE), around(0), "undecided", "as accurate: ±"),  # it may still be refuted
        (around(0, WIDE), around(-2), "refuted", "faster refuted"),
    ],
)
def test_several_outcomes(accurate: list[float], faster: list[float], verdict: str, reason: str) -> None:
    actual = together(accurate, faster)
    assert actual.verdict == verdict, actual
    assert actual.reason.startswith(reason)
    assert [part.name for part in actual.parts] == ["as accurate", "faster"]
    assert (actual.unit, actual.within, actual.per_seed) == ("points", 0.5, actual.parts[0].per_seed)
    assert actual.parts[1].per_seed == pytest.approx(faster)


def test_an_outcome_may_have_rivals() -> None:
    actual = together(around(0), around(2), than={"teacher": "c/test/x", "pruned": "d/test/x"})
    assert actual.verdict == "supported"
    actual = together(around(0), around(2), than={"teacher": "c/test/x", "pruned": "b/test/x"})
    assert (actual.verdict, actual.reason) == ("effect only", "faster effect only")


def test_outcomes_without_chance() -> None:
    exact = {"kind": "exact", "worth": None}
    assert together(around(0), [1.0] * 6, **exact).verdict == "supported"
    assert together(around(0), [1.0] * 6, **exact).evidence == together(around(0), around(2)).parts[0].evidence
    failed = together(around(0), [-1.0] * 6, **exact)
    assert (failed.verdict, failed.reason, failed.evidence) == ("refuted", "faster fails", 0.0)
    assert joint.evidence_against(failed) == pytest.approx(rules.MOST_EVIDENCE / 2, rel=1e-6)
    chance = together(around(0), [1.0, 2.0] * 3, **exact)
    assert (chance.verdict, chance.reason) == ("not run", "faster: not exact: over seeds it is 1 to 2")


def test_evidence_for_effect_only_is_the_baselines_and_the_mean_over_rivals() -> None:
    """Against (worth 1): the rival at 0 has evidence, the one at 2 has at most 1; the mean of both, not the larger."""
    than = {"hard labels": "b/test/x", "equal": "c/test/x", "weak": "d/test/x"}
    asked = claim(than=than)
    actual = verdicts.judge(asked, table(b=around(2), c=around(0), d=around(2)), range(6), 6)
    equal = sequences.normal_evidence(around(0), 1.0)
    weak = sequences.normal_evidence(around(2), 2.0)
    baseline = sequences.normal_evidence(around(2), 0.0)
    assert joint.evidence_for_effect_only(actual) == pytest.approx(min(baseline, (equal + weak) / 2))
    assert joint.evidence_against(actual) == pytest.approx(weak)
    single = verdicts.judge(claim(than="b/test/x"), table(b=around(2)), range(6), 6)
    assert joint.evidence_for_effect_only(single) == 0.0


def entry(asked: Claim, **arms: list[float]) -> Entry:
    """A recorded entry whose arms lie so much below a."""
    values = {"a": [50.0] * 6, **{name: [50 - d for d in column] for name, column in arms.items()}}
    stages = {name: example.stage(6, metrics={"test/x": column}) for name, column in values.items()}
    recorded = example.entry(list(range(6)), stages=stages, registered=example.registered("h"), looked=6)
    return assembly.judge(recorded, Questions([asked], [], []))


def test_effect_only_is_kept_beside_others_by_its_own_evidence() -> None:
    shown = entry(claim(main=True), b=around(2), c=around(0))
    assert suite.keep({"paper": shown}) == {"paper": True}
    replaced = HistoryItem(registered=shown.registered, seeds=[0], verdicts={}, commit="c", at="t", why="w")
    assert suite.keep({"paper": shown.model_copy(update={"history": [replaced] * 500})}) == {"paper": False}


@pytest.mark.parametrize("asked", [claim(main=True), read(Claim, {"name": "n", "main": True, "all": OUTCOMES}, "c")])
def test_a_record_tells_what_it_was_judged_by(asked: Claim) -> None:
    recorded = entry(asked, b=around(0), c=around(2))
    again = Entry.model_validate(json.loads(json.dumps(recorded.plain())))
    told = again.claims[0].claim().content()
    assert json.loads(json.dumps(told)) == json.loads(json.dumps(asked.content()))
    judged_again = assembly.judged_now(again)
    assert judged_again.claims == recorded.claims


def test_what_did_not_run_tells_what_it_would_be_judged_by() -> None:
    outcomes = [OUTCOMES[0], {**OUTCOMES[1], "than": {"teacher": "c/test/x", "pruned": "d/test/x"}}]
    both = read(Claim, {"name": "n", "all": outcomes, "requires_each": ["a/test/x > 1"]}, "c")
    for asked in (claim(), both):
        actual = verdicts.judge(asked, {}, [], 0)
        told = [json.loads(json.dumps({**c.content(), "requires": []})) for c in (actual.claim(), asked)]
        assert told[0] == told[1]
        assert actual.verdict == "not run"
        assert {row.verdict for row in view.claim(actual).rows} == {"not run"}


EDITS = {
    "against: 1: per_seed": lambda c: c.against[1].per_seed.__setitem__(2, 1.5),
    "against: 1: soft alone: interval": lambda c: setattr(c.against[1], "interval", [0.5, 0.6]),
    "against: 1: soft alone: verdict": lambda c: setattr(c.against[1], "verdict", "supported"),
    "a beats b: verdict": lambda c: setattr(c, "verdict", "supported"),
    "than": lambda c: setattr(c.against[1], "than", "b/test/x - 1"),  # its differences are not those
}


@pytest.mark.parametrize("place", EDITS)
def test_an_altered_comparison_is_found(place: str) -> None:
    judged = entry(claim(main=True), b=around(2), c=around(0))
    edited = judged.model_copy(deep=True)
    EDITS[place](edited.claims[0])
    again = assembly.judged_now(edited)
    recorded, derived = ([item.model_dump() for item in e.claims] for e in (edited, again))
    assert list(check_results.differences(recorded, derived, "claims"))
    assert not list(check_results.differences([c.model_dump() for c in judged.claims], derived, "c")) or place == "than"


def test_other_numbers_of_a_rival_are_other_numbers() -> None:
    recorded, other = (entry(claim(main=True), b=around(2), c=around(x)) for x in (0, 0.001))
    assert merge.same_numbers(recorded, recorded)
    assert not merge.same_numbers(other, recorded)


def test_which_one_is_the_baseline_is_part_of_the_hash() -> None:
    turned = dict(reversed(list(RIVALS["than"].items())))  # type: ignore[attr-defined]
    hashed = [json.dumps(claim(than=than).content(), sort_keys=True) for than in (RIVALS["than"], turned)]
    assert hashed[0] != hashed[1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"than": {"alone": "b/test/x"}}, "or a mapping of a baseline and its rivals, as in {base"),
        ({"than": {"x": "b/test/x", "y": "b/test/x"}}, "two names for one arm"),
        ({"within": 1.0}, "rivals are beaten by a margin"),
        ({"kind": "images"}, "kind images compares two networks"),
        ({"than": ""}, "than is missing"),
        ({"all": OUTCOMES}, "better stands with each of its outcomes"),
        ({"all": OUTCOMES, "better": "", "than": ""}, "worth stands with each of its outcomes"),
        ({"all": OUTCOMES[:1], "better": "", "than": "", "worth": None}, "expected at least two outcomes"),
        ({"all": [OUTCOMES[0], {**OUTCOMES[1], "worht": 1}]}, "worht"),
        ({"all": [OUTCOMES[0], {**OUTCOMES[1], "worth": None}]}, "'faster': worth is missing"),
    ],
)
def test_what_cannot_be_asked_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=r"^claims\.0") as refused:
        claim(**options)
    assert told in str(refused.value)
