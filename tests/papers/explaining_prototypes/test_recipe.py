"""The full recipe against the numbers of the released codes; what the arms of a comparison share; two processes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from experiments.config import claims, compose, expressions, vary
from experiments.running import engine, training
from experiments.running.plan import Plan, plan


@pytest.fixture(scope="module")
def full() -> Plan:
    request = compose.request(["paper=explaining_prototypes", "scale=full"])
    return plan(compose.compose(request.overrides), 0)


def test_phases_of_the_full_recipe(full: Plan) -> None:
    stages = full.stages
    order = ["warm", "joint_1", "push_1", "last_1", "joint_2", "push_2", "last_2", "joint", "push", "last"]
    for earlier, later in pairwise(order):
        assert stages[later].needs == {"start": earlier}
    epochs = {name: stages[name].trainer["max_epochs"] for name in order}
    assert [epochs[n] for n in ("warm", "joint_1", "joint_2", "joint")] == [5, 6, 10, 10]  # epochs 0 to 30
    assert {epochs[n] for n in ("last_1", "last_2", "last")} == {20}
    for name in order:
        module, data = stages[name].module, stages[name].data
        if name.startswith("push"):
            assert (data["variation"]["copies"], data["batch_size"]) == (0, 75)
            continue
        assert (data["variation"]["copies"], data["batch_size"], stages[name].reference_batch) == (30, 80, 80)
        assert data["variation"]["kinds"] == ["rotate", "skew", "shear"]
        assert module["optimizer"]["_target_"] == "torch.optim.Adam"
        assert module["weight_decay"] == 1e-3
        if name.startswith("joint"):
            assert module["rates"] == {"backbone": 1e-4, "add_on": 3e-3, "prototypes": 3e-3}
        if name.startswith("last"):
            assert module["rates"] == {"last": 1e-4}
    assert stages["warm"].module["rates"] == {"add_on": 3e-3, "prototypes": 3e-3}
    schedules = [stages[name].module["schedule"] for name in ("joint_1", "joint_2", "joint")]
    assert [(schedule["every"], schedule["done"]) for schedule in schedules] == [(5, 0), (5, 6), (5, 16)]


def test_the_network_and_its_pictures_are_the_published_ones(full: Plan) -> None:
    stages = full.stages
    network = stages["warm"].module["network"]
    assert (network["backbone"]["name"], network["features"]) == ("densenet121", 1024)
    assert (network["classes"], network["per_class"], network["channels"]) == (200, 10, 128)
    assert {stage.data["image_size"] for stage in stages.values()} == {224}


def test_modifications_are_as_strong_as_released(full: Plan) -> None:
    strengths = training.build(full.stages["explained"].data["strengths"])
    assert (strengths.contrast, strengths.saturation, strengths.hue) == (0.45, 0.7, 0.1)
    assert (strengths.amplitude, strengths.frequency) == (4.0, 0.05)
    assert (strengths.texture, strengths.denoise) == ("denoise", 4.0)
    assert strengths.brightness is None
    assert full.stages["explained"].data["jpeg_roundtrip"] is False


def test_pushes_and_scores_are_not_rounded(full: Plan) -> None:
    for name in ("push_1", "push_2", "push", "explained", "untrained_push", "untrained_explained"):
        assert full.stages[name].trainer["precision"] == "32-true"


def test_published_rows(full: Plan) -> None:
    """78.25 is in a file's name, 80.1 and 78.0 are of other papers; what is remembered alone is left out."""
    rows = compose.paper_file("explaining_prototypes")["published"]
    assert {(row["variant"], row["stage"], row["metric"]): row["value"] for row in rows} == {
        ("default", "push", "test/top1"): 78.25,
        ("densenet161", "push", "test/top1"): 80.1,
        ("vgg19", "push", "test/top1"): 78.0,
    }


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_the_untrained_network_starts_as_the_trained_one(scale: str, make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=explaining_prototypes", f"scale={scale}", seed=3)
    if scale == "full":  # the published network takes seconds to draw
        assert plan.stages["untrained"].module["network"] == plan.stages["warm"].module["network"]
        assert plan.stages["untrained"].start_like == plan.stages["warm"].start_like == "warm"
        return
    first: Any = training.construct(plan, plan.stages["warm"])
    second: Any = training.construct(plan, plan.stages["untrained"])
    ours, theirs = first.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_all_stages_of_a_seed_see_the_same_pictures(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=explaining_prototypes", "scale=mini", seed=3).stages
    made = {name: training.build(stages[name].data) for name in ("warm", "push", "explained")}
    parts = [made["warm"], made["push"], made["explained"].source]
    assert {(p.seed, p.source.seed, p.side, *p.parts, *p.per_class.values()) for p in parts} == {
        (3, 3, 32, "hue", "texture", "outline", 150, 100)
    }
    assert len({tuple(p.source.per_class.items()) for p in parts}) == 1
    assert made["push"].rows
    assert not made["push"].augment
    assert stages["untrained_push"].data == stages["push"].data
    assert stages["untrained_explained"].data == stages["explained"].data


def test_main_claims_are_differences_of_differences(make_plan: Callable[..., Plan], full: Plan) -> None:
    """By hand: of shares 40 against 20 permuted and, untrained, 30 against 15, 20 - 15 stays; against chance, 20."""
    shares = {"planted_first": (40.0, 30.0), "planted_first_permuted": (20.0, 15.0)}
    agreement = {"agreement": (0.9, 0.8), "agreement_permuted": (0.3, 0.6)}
    for config, values, expected in (
        (make_plan("paper=explaining_prototypes", "scale=mini").config, shares, [5.0, 20.0]),
        (full.config, agreement, [0.4, 0.6]),
    ):
        questions = claims.read(config)
        assert questions.main is not None
        assert {"explained", "untrained_explained", "push"} <= set(questions.main_stages)
        table = {
            arm: {f"test/{name}": {1: pair[number]} for name, pair in values.items()}
            for number, arm in enumerate(("explained", "untrained_explained"))
        }
        sides = [each.expression() for each in questions.main.against().values()]
        differences = [
            expressions.evaluate(better, table, 1) - expressions.evaluate(than, table, 1) for better, than in sides
        ]
        assert differences == pytest.approx(expected)


def test_a_replications_stages_see_the_same_pictures() -> None:
    """Fewer training pictures are fewer in every stage: rows of patches are read from the explained stages' data."""
    config = compose.compose(compose.request(["paper=explaining_prototypes", "scale=mini"]).overrides)
    knobs = vary.read(compose.resolve(config, 3))
    drawn = {"rate": 0.5, "epochs": 1.0, "prototypes": 8, "training_images": 0.7}
    assert set(drawn) == set(knobs)
    stages = plan(vary.turn(config, knobs, drawn, compose.groups("explaining_prototypes")), 3).stages
    species = {"train_per_class": 21, "test_per_class": stages["warm"].data["source"]["test_per_class"]}
    for name, stage in stages.items():
        data = stage.data["source"] if name.endswith("explained") else stage.data
        assert data["train_per_class"] == 105
        assert {key: data["source"][key] for key in species} == species
    assert {stages[name].module["network"]["per_class"] for name in ("warm", "untrained")} == {8}
    assert stages["joint"].module["rates"]["backbone"] == 0.0015


@pytest.mark.slow
def test_a_phase_on_two_processes_is_that_on_one(make_plan: Callable[..., Plan]) -> None:
    """Cluster and separation costs are means over the batch, batch statistics those of the global one."""
    weights, metrics = [], []
    for trainer in ("cpu", "ddp_cpu"):
        sgd = [f"stages.{n}.module.optimizer={{_target_:torch.optim.SGD,_partial_:true}}" for n in ("warm", "joint")]
        plan = make_plan("paper=explaining_prototypes", f"trainer={trainer}", *sgd)
        engine.ensure(plan, plan.stages["warm"])
        metrics.append(engine.ensure(plan, plan.stages["joint"]).metrics)
        weights.append(torch.load(plan.stages["joint"].directory / "last.ckpt", weights_only=True)["state_dict"])
    assert metrics[0]["test/n"] == metrics[1]["test/n"] == 54
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3)
    assert all(torch.allclose(weights[0][k].double(), weights[1][k].double(), atol=1e-5) for k in weights[0])
