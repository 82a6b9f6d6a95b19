"""The recipes: published sizes and rates, and what the arms of a comparison share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from experiments.config import claims
from experiments.running import training
from experiments.running.plan import Plan


def test_phases_of_the_full_recipe(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=explaining_prototypes", "scale=full").stages
    order = ["warm", "joint_1", "push_1", "last_1", "joint_2", "push_2", "last_2", "joint", "push", "last"]
    for earlier, later in pairwise(order):
        assert stages[later].needs == {"start": earlier}
    epochs = {name: stages[name].trainer["max_epochs"] for name in order}
    assert [epochs[n] for n in ("warm", "joint_1", "joint_2", "joint")] == [5, 6, 10, 10]  # epochs 0 to 30
    assert {epochs[n] for n in ("last_1", "last_2", "last")} == {20}
    for name in order:
        module = stages[name].module
        if name.startswith("joint"):
            assert module["rates"] == {"backbone": 1e-4, "add_on": 3e-3, "prototypes": 3e-3}
        if name.startswith("last"):
            assert module["rates"] == {"last": 1e-4}
        if name.startswith("push"):
            assert (stages[name].data["copies"], stages[name].data["batch_size"]) == (0, 75)
        else:
            assert (stages[name].data["copies"], stages[name].data["batch_size"]) == (30, 80)
            assert module["weight_decay"] == 1e-3
    assert stages["warm"].module["rates"] == {"add_on": 3e-3, "prototypes": 3e-3}
    done = [stages[name].module["schedule"]["done"] for name in ("joint_1", "joint_2", "joint")]
    assert done == [0, 6, 16]
    strengths = training.build(stages["explained"].data["strengths"])
    assert (strengths.contrast, strengths.saturation, strengths.hue) == (0.45, 0.7, 0.1)
    assert (strengths.amplitude, strengths.frequency, strengths.denoise) == (4.0, 0.05, 4.0)
    assert strengths.brightness is None


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_the_untrained_network_starts_as_the_trained_one(
    scale: str, make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_each_scale_has_its_main_claim(make_plan: Callable[..., Plan]) -> None:
    for scale, stage in (("mini", "untrained_explained"), ("full", "explained")):
        config = make_plan("paper=explaining_prototypes", f"scale={scale}").config
        main = claims.read(config).main
        assert main is not None
        assert str(main.than).split("/")[0] == stage
