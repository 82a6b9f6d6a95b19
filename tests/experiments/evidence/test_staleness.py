"""Where a record ran makes it no other record: its fingerprints hold the trainer, and its entry says which."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.config import claims, compose
from experiments.evidence import naming, registration, staleness
from experiments.evidence.records import Entry
from experiments.running.plan import only, plan, plan_each
from tests import example

PAPER = "meal_v2"
OTHER = "0" * 12  # no stage's fingerprint
PLACES = [
    ["trainer=cpu"],
    ["trainer=ddp_cpu"],
    ["trainer=ddp_cpu", "trainer.devices=4"],
    ["trainer=gpu"],
    ["trainer=ddp", "trainer.devices=2"],
]


def entry(*given: str) -> Entry:
    """As `reproduce` would write it where the command line said this, from stages that a plan names."""
    request = compose.request([f"paper={PAPER}", *given])
    config = compose.compose(request.overrides)
    seeds = [1000, 1001]
    precisions = dict.fromkeys(config.stages, "bf16-mixed" if "trainer=gpu" in given else "32-true")
    plans = plan_each(config, seeds, precisions)
    stages = {
        name: example.stage(
            2, fingerprints=[plan.stages[name].fingerprint for plan in plans], precision=precisions[name]
        )
        for name in plans[0].stages
    }
    return example.entry(
        seeds,
        stages=stages,
        overrides=naming.personal(request.given),
        place=naming.place(request.given),
        registered=example.registered(registration.digest(compose.resolve(config, 0))),
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer of an earlier run is taken for one of this code."""
    monkeypatch.setattr(staleness, "remember", lambda what, paper, mark, files, answer: answer())


@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_where_it_ran_makes_no_record_stale(place: list[str]) -> None:
    recorded = entry(*place)
    assert (recorded.place, recorded.overrides) == (place, [])
    assert recorded.registered == entry().registered
    assert staleness.stale(PAPER, recorded) == []


def test_a_place_that_is_not_said_or_another_recipe_is_stale() -> None:
    """The fingerprints of two processes are not those of one, so that the test above can fail."""
    silent = entry("trainer=ddp_cpu").model_copy(update={"place": []})
    assert set(staleness.stale(PAPER, silent)) == set(silent.stages)
    longer = entry("trainer=cpu", "stages.student.trainer.max_epochs=61").model_copy(update={"overrides": []})
    assert "student" in staleness.stale(PAPER, longer)


def test_a_main_verdict_is_as_old_as_the_stages_that_it_rests_on() -> None:
    recorded = entry()
    config = compose.compose(compose.request([f"paper={PAPER}"]).overrides)
    compared = claims.read(compose.resolve(config, 0)).main_stages
    rested = only(plan(config, 0), compared).stages
    beside = next(name for name in recorded.stages if name not in rested)

    recorded.stages[beside].fingerprints = [OTHER, OTHER]
    assert staleness.of_main(PAPER, recorded) == []
    assert staleness.of_others(PAPER, recorded) == staleness.stale(PAPER, recorded) == [beside]
    assert staleness.of_recorded(PAPER, recorded) == [beside]

    recorded.stages[beside].fingerprints = [None, None]  # a recording of the main claim alone left it out
    assert staleness.of_main(PAPER, recorded) == staleness.of_recorded(PAPER, recorded) == []
    assert staleness.of_others(PAPER, recorded) == [beside]

    recorded.stages[compared[0]].fingerprints = [OTHER, OTHER]
    assert staleness.of_main(PAPER, recorded) == [compared[0]]
    assert staleness.of_others(PAPER, recorded) == [beside]
