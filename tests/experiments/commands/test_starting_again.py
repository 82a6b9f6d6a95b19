"""Seeds on the way: which start again, together and how often, and that a second command finds the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.commands import seeds as on_the_way
from experiments.commands.seeds import Seeds
from experiments.common import files
from experiments.config.claims import Questions
from experiments.config.comparisons import Claim
from experiments.evidence import restarts
from experiments.running.manifest import finished, hash_metrics
from experiments.running.plan import Plan, Stage
from tests import example

CLAIM = Claim("a beats b", "a/test/top1", "b/test/top1", worth=1.0, main=True, dead="train/top1 < 12")
DEAD = {3: ["b"], restarts.seed(3, 1): ["a"], 5: ["a", "b"], restarts.seed(5, 1): ["b"], restarts.seed(5, 2): ["b"]}


class Fake(Seeds):
    """Trains nothing: a stage reports 50 percent, or 10 where its network is dead."""

    trained: list[list[int]]

    def _train(self, plans: Sequence[Plan]) -> bool:
        open_ = [plan for plan in plans if any(finished(stage) is None for stage in plan.stages.values())]
        self.trained.append([plan.seed for plan in open_])
        for plan in open_:
            for name, stage in plan.stages.items():
                value = 10.0 if name in DEAD.get(plan.seed, []) else 50.0
                metrics = {"train/top1": value, "test/top1": value}
                manifest = {"fingerprint": stage.fingerprint, "metrics_hash": hash_metrics(metrics), "seconds": 1.0}
                files.write_json(stage.directory / "metrics.json", metrics)
                files.write_json(stage.directory / "manifest.json", manifest | {"registered": "abc"})
        return bool(open_)


def plans(tmp_path: Path, numbers: Sequence[int]) -> list[Plan]:
    tries = []
    for number in numbers:
        stages = {
            name: Stage(
                name, {}, {}, {}, fingerprint=f"{name}{number}", seed=number, directory=tmp_path / f"{number}{name}"
            )
            for name in ("a", "b", "other")
        }
        tries.append(Plan("toy", "mini", None, number, stages, {}))
    return tries


@pytest.fixture
def seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A command's seeds, made anew at each call, over the same folder."""
    monkeypatch.setattr(on_the_way, "_plans", lambda setting, numbers: plans(tmp_path, numbers))

    def make(claim: Claim = CLAIM) -> Fake:
        questions = Questions([claim], [], [], ("a", "b"))
        setting: Any = SimpleNamespace(questions=questions, is_recorded=False, runs_here=True, only_main=False)
        setting.config = SimpleNamespace(scale="mini")
        fake = Fake(setting, example.registered("abc"), plans(tmp_path, [3, 4, 5]), None)  # type: ignore[arg-type]
        fake.trained = []
        return fake

    return make


def test_all_arms_of_a_dead_seed_start_again_at_most_twice(seeds: Any, tmp_path: Path) -> None:
    first = seeds()
    first.train_first()
    again = [restarts.seed(of, number) for number in (1, 2) for of in (3, 5)]
    assert first.trained == [[3, 4, 5], again[:2], again[2:]]
    assert {of: [plan.attempt for plan in tries] for of, tries in first.tries.items()} == {3: [1, 2], 5: [1, 2]}
    assert all(set(plan.stages) == {"a", "b"} for tries in first.tries.values() for plan in tries)

    judged = {plan.seed: plan.stages["a"].seed for plan in first.judged_plans()}
    assert judged == {3: again[2], 4: 4, 5: again[3]}
    assert {plan.stages["other"].seed for plan in first.judged_plans()} == {3, 4, 5}

    gathered = restarts.gather(first.tries)
    assert [(item.of, item.attempt, item.seed) for item in gathered] == [
        (of, number, restarts.seed(of, number)) for of in (3, 5) for number in (1, 2)
    ]
    table: dict[str, dict[str, dict[int, float]]] = {name: {"train/top1": {}, "test/top1": {}} for name in ("a", "b")}
    for plan in first.plans:
        for name, by_metric in restarts.table_of(plan).items():
            for metric, column in by_metric.items() if name in table else ():
                table[name][metric] |= column
    assert list(restarts.problems(CLAIM, ("a", "b"), table, [3, 4, 5], gathered)) == []
    claim = restarts.judge(CLAIM, table, [3, 4, 5], 3, gathered)
    assert (claim.restarted, claim.still_dead, claim.per_seed) == ([3, 5], [5], [0.0, 0.0, 40.0])


def test_a_command_that_was_ended_goes_on_where_it_stopped(seeds: Any, tmp_path: Path) -> None:
    whole = seeds()
    whole.train_first()
    lost = whole.tries[5][0].stages["b"].directory / "manifest.json"
    lost.unlink()
    second = seeds()
    second.train_first()
    assert second.trained == [[], [restarts.seed(5, 1)], []]
    assert restarts.gather(second.tries) == restarts.gather(whole.tries)


def test_without_a_limit_nothing_starts_again(seeds: Any) -> None:
    plain = seeds(Claim("a beats b", "a/test/top1", "b/test/top1", worth=1.0, main=True))
    plain.train_first()
    assert plain.trained == [[3, 4, 5]]
    assert plain.tries == {}
