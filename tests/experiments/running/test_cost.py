"""What a run is said to take."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.pages.progress import Board
from experiments.running import cost
from experiments.running.manifest import finished
from experiments.running.plan import Plan, only
from tests import example

RECORDED = {"teacher_a": 40.0, "init": 10.0}


def test_recorded_seconds_are_means_of_what_ran() -> None:
    times = {"teacher_a": [30.0, 50.0], "init": [10.0, None], "lost": [None, None]}
    stages = {name: example.stage(2, seconds=seconds) for name, seconds in times.items()}
    assert example.entry([0, 1], stages=stages).mean_seconds() == RECORDED


def test_work_is_shared_out_but_a_chain_is_not(make_plan: Callable[..., Plan]) -> None:
    plans = [only(make_plan("paper=meal_v2", seed=seed), ["teacher_a", "teacher_b", "init"]) for seed in (0, 1)]
    stages = list(plans[0].stages)
    assert {"teacher_a", "teacher_b", "init"} <= set(stages)
    known = dict.fromkeys(stages, 10.0)
    assert cost.left(plans, known, 1) == 20 * len(stages)
    assert cost.left(plans, known, 2) == 10 * len(stages)
    longest = cost.left(plans, known, 1000)
    assert longest == 10 * max(_depth(plans[0], name) for name in stages)
    assert cost.left(plans, {"teacher_a": 10.0}, 1) == 20 * len(stages)  # the others last as long as what is known
    assert cost.left(plans, {}, 1) is None


def _depth(plan: Plan, name: str) -> int:
    return 1 + max((_depth(plan, before) for before in plan.stages[name].predecessors), default=0)


def test_a_slow_machine_is_noticed(make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    this = only(make_plan("paper=meal_v2"), ["teacher_a", "init"])
    monkeypatch.setattr(cost, "finished", lambda stage: {"seconds": 30.0} if stage.name == "init" else None)
    assert cost.seconds_of_stages([this], RECORDED) == pytest.approx({"init": 30.0, "teacher_a": 120.0})
    assert cost.left([this], {"init": 30.0, "teacher_a": 120.0}, 1) is not None


def test_finished_stages_cost_nothing(make_plan: Callable[..., Plan]) -> None:
    this = only(make_plan("paper=meal_v2"), ["untrained"])
    assert all(finished(stage) is None for stage in this.stages.values())
    assert cost.left([], {"untrained": 3.0}, 2) is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(40.4, "40 s"), (720, "12 min"), (12_600, "3.5 h"), (345_600, "4 days"), (89.6, "90 s")]
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert cost.in_words(seconds) == words


def test_the_bar_grows_with_seconds() -> None:
    board = Board("t", 3, {"long": 90.0, "short": 10.0}).plan(["long", "short", "new"])
    assert board.bar.tasks[0].total == 90 + 10 + 50
    board({"event": "progress", "seed": 0, "stage": "long", "fraction": 0.5})
    assert board.bar.tasks[0].completed == 45
    ended = {"event": "stage", "seed": 0, "status": "done", "cached": True, "metrics": {}}
    board({**ended, "stage": "long"})
    board({**ended, "stage": "new"})
    assert board.bar.tasks[0].completed == 140
    assert board.bar.tasks[0].fields["ended"] == "2/3"
