"""Which main claims stay beside those of all other papers."""

from __future__ import annotations

import pytest

from experiments.config.claims import Questions
from experiments.config.comparisons import Claim
from experiments.evidence import assembly, rules, suite
from experiments.evidence.records import Entry, HistoryItem
from tests import example

CLAIM = Claim("a beats b", "a/test/top1", "b/test/top1", worth=1.0, main=True)


def entry(values: list[float], replaced: int = 0) -> Entry:
    """A recorded main claim with these differences, and as many registrations before it."""
    seeds = list(range(len(values)))
    stages = {
        name: example.stage(len(seeds), metrics={"test/top1": tops})
        for name, tops in (("a", values), ("b", [0.0] * len(seeds)))
    }
    registered = example.registered("h")
    past = HistoryItem(registered=registered, seeds=seeds, verdicts={}, commit="c", at="t", why="w")
    recorded = example.entry(seeds, stages=stages, registered=registered, looked=len(seeds), history=[past] * replaced)
    return assembly.judge(recorded, Questions([CLAIM], [], []))


STRONG = [5.0, 5.1, 5.2, 4.9] * 4
WEAK = [2.0, 3.1, 1.4, 2.6, 0.9, 3.3]
FLAT = [0.0, 0.1, -0.1, 0.05] * 4


def test_strong_verdicts_stay_and_weak_ones_stand_alone_once_enough_others_are_asked() -> None:
    assert entry(WEAK).main_claim().verdict == "supported"  # type: ignore[union-attr]
    assert suite.keep({"weak": entry(WEAK)}) == {"weak": True}
    assert suite.keep({"weak": entry(WEAK, replaced=40), "strong": entry(STRONG)}) == {"weak": False, "strong": True}


def test_no_gain_is_kept_by_its_own_evidence() -> None:
    assert suite.keep({"flat": entry(FLAT), "strong": entry(STRONG)}) == {"flat": True, "strong": True}


@pytest.mark.parametrize(("values", "kept"), [([1.0, -1.0, 0.5, 2.0], {}), ([1.0], {})])
def test_what_is_open_is_not_asked(values: list[float], kept: dict[str, bool]) -> None:
    assert suite.keep({"open": entry(values)}) == kept


def test_evidence_against_is_that_of_the_nearest_mean_worth_the_claim() -> None:
    above = rules.Above(margin=0.0, worth=1.0)
    inside = rules.Inside(half=2.0)
    seen: list[float] = []

    def at(limit: float) -> float:
        seen.append(limit)
        return 1.0

    for region, mean in ((above, -0.5), (above, 3.0), (inside, 5.0), (inside, -5.0), (inside, 1.0)):
        region.evidence_against(at, mean)
    assert seen == [1.0, 3.0, 2.0, -2.0, 1.0]
