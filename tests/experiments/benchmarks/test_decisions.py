"""The simulated procedure decides as the real one does, and wrongly as seldom as its page says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks import procedure
from experiments.common.paths import ROOT
from experiments.config.comparisons import Claim
from experiments.config.written import read
from experiments.evidence import sequences, verdicts


def test_a_row_is_decided_as_the_sequence_decides_it() -> None:
    rows = np.random.default_rng(1).normal(0.6, 1.0, (40, 32))
    for row, verdict in zip(rows, procedure.decide(rows, 0.5), strict=True):
        expected = 0
        for count in range(6, 33):
            estimate = sequences.normal(list(row[:count]))
            expected = 1 if estimate.low > 0 else -1 if estimate.high < 0.5 else 0
            if expected:
                break
        assert verdict == expected


def test_nothing_is_decided_before_the_first_look() -> None:
    rows = np.tile([5.0, 5.1], (1, 16))
    assert procedure.decide(rows[:, :5], 0.5).tolist() == [0]
    assert procedure.decide(rows, 0.5).tolist() == [1]


@pytest.mark.parametrize("noise", procedure.NOISES)
def test_noises_have_no_mean_and_a_deviation_of_one(noise: str) -> None:
    values = procedure.NOISES[noise](np.random.default_rng(0), (2000, 200))
    assert abs(values.mean()) < 0.01
    assert values.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("noise", procedure.NOISES)
@pytest.mark.parametrize("recipes", [0.0, 1.0])
def test_replicated_support_is_wrong_in_less_than_five_percent(noise: str, recipes: float) -> None:
    shares = procedure.simulate(procedure.Scenario(noise, recipes, 0.0, 1.0), runs=2000)
    assert shares["replicated"] < 0.05


CODES = {"supported": 1, "effect only": 2, "undecided": 0, "no gain": -1, "refuted": -2}


@pytest.mark.parametrize("outcomes", [False, True])
def test_several_comparisons_are_joined_as_the_record_joins_them(outcomes: bool) -> None:
    """Sixty streams of three comparisons, each verdict after 9 seeds beside the rule's own."""
    columns = procedure.paired(np.random.default_rng(3), "normal", [2.5, 0.6, 1.5], 60)
    join = procedure.join_outcomes if outcomes else procedure.join_rivals
    simulated = join([procedure.look(column, 2.0) for column in columns])[:, 8]
    parts = [{"name": n, "better": "a/test/x", "than": f"{n}/test/x", "worth": 2.0} for n in "bcd"]
    rivals = {**parts[0], "than": {part["name"]: part["than"] for part in parts}}
    asked = read(Claim, {"name": "n", "all": parts} if outcomes else rivals)
    for row, code in enumerate(simulated):
        arms = {n: {"test/x": dict(enumerate(-column[row, :9]))} for n, column in zip("bcd", columns, strict=True)}
        table = {"a": {"test/x": dict.fromkeys(range(9), 0.0)}, **arms}
        assert CODES[verdicts.judge(asked, table, range(9), 9).verdict] == code
    assert len(set(simulated)) >= 3


def test_a_precondition_fails_as_the_record_says_it_does() -> None:
    """Of six seeds two that hold are too few, three are not; the true share is called absent in less than 5%."""
    assert procedure.most_that_fail(6, 0.9) == 2
    assert [procedure.most_that_fail(count, 0.9) for count in (1, 2)] == [-1, 0]  # 5 and 33, where 20 is needed
    assert procedure.called_absent(0.9, 0.9, 20_000)[-1] < 0.05
    assert procedure.called_absent(0.2, 0.9, 2000)[0] > 0.85


@pytest.mark.parametrize("effects", [(2.0, 0.0), (2.0, 0.0, 2.0, 2.0), (0.0, 0.0)])
def test_support_beside_an_equal_rival_is_wrong_in_less_than_five_percent(effects: tuple[float, ...]) -> None:
    for noise in ("normal", "one network in ten dead", "heavy tails (t, 3)"):
        ends = procedure.end_in(procedure.join_rivals, noise, effects, 1.0, 2000)
        assert ends[1] < 0.05
        assert sum(ends.values()) == pytest.approx(1)


def test_the_page_is_in_the_repository() -> None:
    assert (Path(ROOT) / "docs" / "decisions.md").read_text(encoding="utf-8").startswith("# How often")


ALIVE = [
    "one in ten of both arms",
    "one in ten of the baseline",
    "one in ten of the method",
    "none; the limit is generous",
]


@pytest.mark.parametrize("what", ALIVE)
def test_starting_dead_seeds_again_leaves_support_wrong_in_less_than_five_percent(what: str) -> None:
    _, last = procedure.supported_with_deaths("normal", procedure.DEATHS[what], 0.0, 1.0, 2000)
    assert last < 0.05


def test_starting_again_leaves_living_networks_as_they_are() -> None:
    """Three tries of one in ten leave one in a thousand; where nothing dies, first and last tries are the same."""
    chance = np.random.default_rng(0)
    first, last = procedure.restarted(chance, "normal", procedure.Deaths(baseline=0.1), 1.0, 4000)
    assert first.mean() == pytest.approx(1 + 0.1 * 10, abs=0.05)
    assert last.mean() == pytest.approx(1 + 0.001 * 10, abs=0.02)
    assert last.std() == pytest.approx(1, abs=0.06)
    first, last = procedure.restarted(chance, "normal", procedure.Deaths(), 0.0, 100)
    assert (first == last).all()


def test_a_generous_limit_favours_the_arm_that_scatters_more() -> None:
    """Which the page says: equal arms stay equal, others do not."""
    equal, wider = (procedure.DEATHS[what] for what in procedure.DEATHS if "generous" in what)
    for deaths, least in ((equal, -0.02), (wider, 0.2)):
        _, last = procedure.restarted(np.random.default_rng(1), "normal", deaths, 0.0, 4000)
        assert least < last.mean() < least + 0.5
