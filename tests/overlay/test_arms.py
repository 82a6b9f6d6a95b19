"""An arm of a user's own: what it composes to, what is refused, and how it stands beside recorded arms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig

from experiments.commands import arm_beside, setting
from experiments.commands.schedulers import Schedulers
from experiments.common.errors import InputError
from experiments.config import claims, compose, instantiate, overlay, vary
from experiments.config.trials import Knob
from experiments.evidence import registrations, results
from experiments.evidence.records import Record
from experiments.running.manifest import hash_metrics
from experiments.running.plan import Plan, Stage, plan
from tests import example

ARM: dict[str, Any] = {
    "like": "student",
    "about": "one teacher and smoothed labels",
    "needs": {"teachers": ["teacher_a"], "student": "init"},
    "module": {"discriminator": None, "labels": {"hard": 0.5, "smoothing": 0.1}},
    "claim": {
        "name": "one teacher and smoothed labels are better than MEAL V2 and hard labels",
        "better": "mine_arm/test/top1",
        "than": {"MEAL V2": "student/test/top1", "hard labels": "continued/test/top1"},
        "worth": 1,
        "worth_reason": "as the paper's own",
    },
}


@pytest.fixture
def with_arm(mine: Path) -> Callable[..., Path]:
    """Writes an arm of MEAL V2 into the overlay."""

    def write(name: str = "mine_arm", paper: str = "meal_v2", **changes: Any) -> Path:
        path = mine / "conf" / "arms" / paper / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({**ARM, **changes}), encoding="utf-8")
        return mine

    return write


def composed(variant: str = "mine_arm", scale: str = "mini") -> DictConfig:
    return compose.compose(compose.request(["paper=meal_v2", f"scale={scale}", f"variant={variant}"]).overrides)


def fingerprints(config: DictConfig) -> dict[str, str]:
    return {name: stage.fingerprint for name, stage in plan(config, 1).stages.items()}


def test_an_arm_is_the_stage_it_is_like_but_for_what_it_says(with_arm: Callable[..., Path]) -> None:
    with overlay.opened(str(with_arm())):
        stages = plan(composed(), 1).stages
        like, arm = stages["student"], stages["mine_arm"]
        assert arm.module["labels"] == {**like.module["labels"], "hard": 0.5, "smoothing": 0.1}
        assert arm.module["discriminator"] is None
        same = {key: value for key, value in arm.module.items() if key not in ("labels", "discriminator")}
        assert same == {key: like.module[key] for key in same}
        assert (arm.data, arm.trainer) == (like.data, like.trainer)
        assert arm.needs == {"teachers": ["teacher_a"], "student": "init"}
        assert arm.start_like == "student"


def test_the_other_arms_are_the_papers_own_and_what_nobody_needs_is_left_out(with_arm: Callable[..., Path]) -> None:
    alone = fingerprints(compose.compose(compose.request(["paper=meal_v2"]).overrides))
    with overlay.opened(str(with_arm())):
        joined = fingerprints(composed())
        assert set(joined) == {"teacher_a", "teacher_b", "init", "student", "continued", "mine_arm"}
        assert {name: mark for name, mark in joined.items() if name != "mine_arm"}.items() <= alone.items()
        assert fingerprints(compose.compose(compose.request(["paper=meal_v2"]).overrides)) == alone


def test_what_refers_to_a_stage_that_is_left_out_keeps_its_value(with_arm: Callable[..., Path]) -> None:
    """`classes: ${stages.student.module.classes}` of an arm like student, which it is not compared with."""
    claim = {**ARM["claim"], "than": "continued/test/top1"}
    with overlay.opened(str(with_arm(module={"labels": {"smoothing": 0.1}}, claim=claim))):
        stages = plan(composed(), 1).stages
        assert "student" not in stages
        assert stages["mine_arm"].module["discriminator"]["classes"] == 10
        without = stages["mine_arm"].fingerprint
    claim = {**ARM["claim"], "than": {"a": "continued/test/top1", "b": "student/test/top1"}}
    with overlay.opened(str(with_arm(module={"labels": {"smoothing": 0.1}}, claim=claim))):
        assert plan(composed(), 1).stages["mine_arm"].fingerprint == without


def test_its_claim_is_the_settings_only_and_main_one(with_arm: Callable[..., Path]) -> None:
    with overlay.opened(str(with_arm())):
        questions = claims.read(compose.resolve(composed(), 1))
        assert [(claim.name, claim.main, claim.asked_by) for claim in questions.claims] == [
            (ARM["claim"]["name"], True, "suite")
        ]
        assert list(questions.main_stages) == ["mine_arm", "student", "continued"]
        assert not questions.checks


def test_the_recipes_grid_and_ranges_turn_the_arm_with_the_others(with_arm: Callable[..., Path]) -> None:
    with overlay.opened(str(with_arm())):
        config = composed()
        assert list(config.tune.arms) == ["student", "continued", "mine_arm"]
        grid = Knob(keys=list(config.tune["keys"]), among=[0.3, 0.3])
        turned = vary.turn(config, {"tune": grid}, {"tune": 0.3}, compose.groups("meal_v2"))
        for name in ("student", "continued", "mine_arm"):
            assert turned.stages[name].module.optimizer.lr == 0.3


def test_its_registration_names_the_overlay_and_one_of_the_suite_names_none(with_arm: Callable[..., Path]) -> None:
    def filed(words: list[str]) -> registrations.Filed:
        config = compose.compose(compose.request(["paper=meal_v2", *words]).overrides)
        return registrations.describe("mini", compose.resolve(config, 0), plan(config, 0))

    alone = filed([])
    assert registrations.OF_OVERLAY not in alone.bound
    with overlay.opened(str(with_arm())):
        assert filed(["variant=mine_arm"]).bound[registrations.OF_OVERLAY] == "mine"
        inside = filed([])
        assert inside.hash != alone.hash
        assert inside.changed(alone) == ["overlay"]
    assert filed([]).hash == alone.hash


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"like": "studnet"}, "did you mean 'student'?"),
        ({"modul": {}}, "did you mean 'module'?"),
        ({"name": "continued"}, "continued is a stage, group or variant of the paper"),
        ({"name": "clean"}, "clean is a stage, group or variant of the paper"),
        ({"claim": {**ARM["claim"], "better": "soft/test/top1"}}, "expected mine_arm/test/..."),
        ({"claim": {**ARM["claim"], "worth_reason": ""}}, "claim.worth_reason: expected why"),
        ({"claim": {**ARM["claim"], "wurth": 1}}, "did you mean 'worth'?"),
        ({"variant": "kleen"}, "did you mean 'clean'?"),
        ({"scale": "smoke"}, "scale=smoke: expected mini, lab or full"),
        ({"module": {"_target_": "os.system"}}, "'os.system' is not allowed"),
        ({"module": {"_target_": "mine.modules.toy.Absent"}}, "not allowed"),
    ],
)
def test_an_arm_that_makes_no_sense_is_told_in_one_line(
    with_arm: Callable[..., Path], changes: dict[str, Any], words: str
) -> None:

    def build(name: str) -> None:
        module = compose.resolve(composed(name), 0)["stages"][name]["module"]
        instantiate.check(module, "module", ("teachers", "student"))

    changed = dict(changes)
    name = changed.pop("name", "mine_arm")
    with overlay.opened(str(with_arm(name, **changed))), pytest.raises(InputError) as told:
        build(name)
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_an_arm_of_no_paper_is_refused(with_arm: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="did you mean 'meal_v2'"), overlay.opened(str(with_arm(paper="meal_v3"))):
        pytest.fail("it was opened")


@pytest.mark.slow
@pytest.mark.parametrize("paper", compose.papers())
def test_every_paper_takes_an_arm_like_one_of_its_own(with_arm: Callable[..., Path], paper: str) -> None:
    """An arm like the first trained stage, judged against it: the same stage under another name, and what it needs."""
    stages = plan(compose.compose(compose.request([f"paper={paper}"]).overrides), 1).stages
    model = next(stage for stage in stages.values() if stage.fit)
    claim = {**ARM["claim"], "better": "mine_arm/test/top1", "than": f"{model.name}/test/top1"}
    folder = with_arm(paper=paper, like=model.name, needs=None, module=None, claim=claim)
    with overlay.opened(str(folder)):
        config = compose.compose(compose.request([f"paper={paper}", "variant=mine_arm"]).overrides)
        joined = plan(config, 1).stages
    assert joined[model.name].fingerprint == model.fingerprint
    assert joined["mine_arm"].module == model.module
    assert joined["mine_arm"].data == model.data
    assert set(joined) <= {*stages, "mine_arm"}


# --- beside recorded arms ---------------------------------------------------------------------------------------------

SEEDS = [2_000_000, 2_000_001, 2_000_002]
RECORDED = {"student": [80.0, 82.0, 81.0], "continued": [76.0, 75.0, 77.0], "init": [70.0, 71.0, 72.0]}
ARMS_OWN = [83.0, 84.0, 82.0]


def record(folder: Path, plans: list[Plan], changed: str = "") -> None:
    """A record of these stages' numbers; one of them may have been made with other code."""
    stages = {
        name: example.stage(
            len(plans),
            fingerprints=["0" * 12 if name == changed else each.stages[name].fingerprint for each in plans],
            metrics={"test/top1": RECORDED.get(name, [90.0] * len(plans))},
            precision="32-true",
        )
        for name in plans[0].stages
    }
    entry = example.entry(SEEDS, stages=stages)
    folder.mkdir(exist_ok=True)
    results.update("meal_v2", "mini", lambda _: entry, folder)
    assert isinstance(results.read("meal_v2", folder), Record)


def finish(stage: Stage, value: float) -> None:
    """What a stage that ran leaves behind."""
    stage.directory.mkdir(parents=True)
    metrics = {"test/top1": value}
    (stage.directory / "metrics.json").write_text(json.dumps(metrics))
    facts = {
        "fingerprint": stage.fingerprint,
        "metrics_hash": hash_metrics(metrics),
        "seconds": 1.0,
        "finished": "2026-01-01T00:00:00+00:00",
        "code": {"commit": None, "dirty": None},
        "versions": {},
        "hardware": {"cpu": "x", "cores": 1, "system": "x"},
    }
    (stage.directory / "manifest.json").write_text(json.dumps(facts))


def plans_of(words: list[str]) -> list[Plan]:
    config = compose.compose(compose.request(["paper=meal_v2", *words]).overrides)
    return [plan(config, seed) for seed in SEEDS]


def test_on_recorded_seeds_the_arm_alone_runs_and_stands_beside_recorded_numbers(
    with_arm: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "recorded")
    record(results.RESULTS, plans_of([]))
    before = (results.RESULTS / "meal_v2.json").read_bytes()
    with overlay.opened(str(with_arm())):
        for each, value in zip(plans_of(["variant=mine_arm"]), ARMS_OWN, strict=True):
            for name in ("teacher_a", "init", "mine_arm"):
                finish(each.stages[name], value)
        asked = setting.read(["paper=meal_v2", "variant=mine_arm"])
        assert arm_beside.is_asked(asked)
        beside = arm_beside.read(asked)
        assert beside.own == ["mine_arm"]
        with Schedulers() as schedulers:
            assert arm_beside.explore(asked, schedulers) == 0
        entry = arm_beside.judged(asked, beside, len(SEEDS), {})
        assert not (results.base() / "meal_v2.json").exists()
    main = entry.main_claim()
    assert main is not None
    assert [item.per_seed for item in main.against] == [[3.0, 2.0, 1.0], [7.0, 9.0, 5.0]]
    assert main.difference == pytest.approx(2.0)
    out = " ".join(capsys.readouterr().out.split())
    assert "no verdict, and nothing is recorded" in out
    assert "make tune PAPER=meal_v2 VARIANT=mine_arm EXTRA=" in out
    assert (results.RESULTS / "meal_v2.json").read_bytes() == before


def test_a_recorded_arm_that_is_another_one_now_does_not_count(
    with_arm: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "recorded")
    record(results.RESULTS, plans_of([]), changed="continued")
    with overlay.opened(str(with_arm())):
        beside = arm_beside.read(setting.read(["paper=meal_v2", "variant=mine_arm"]))
        assert beside.own == ["mine_arm", "continued"]
        assert "continued" not in beside.recorded


def test_without_a_record_it_is_tried_on_pilot_seeds_as_any_other_setting(
    with_arm: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "none")
    with overlay.opened(str(with_arm())):
        assert not arm_beside.is_asked(setting.read(["paper=meal_v2", "variant=mine_arm"]))
