"""What the recipes say: schedule, optimiser, equal costs, variants."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
from timm.optim import RMSpropTF
from torch import nn

from experiments.config import compose
from experiments.running import training
from experiments.running.plan import Plan
from modules.common.schedules import Position, staircase
from modules.inception_v4.networks import Residual
from tests.papers.inception_v4.helpers import multiply_adds, parameters


def test_learning_rate_staircase() -> None:
    """Check 8."""
    rate = [0.045 * staircase(Position(epoch, 1999, 2002, 200)) for epoch in range(102)]
    assert [rate[e] for e in (0, 1, 20, 21, 100)] == pytest.approx([0.045, 0.045, 0.02424, 0.02424, 0.00204], abs=5e-6)
    assert rate[2] == pytest.approx(0.94 * 0.045)
    fine = [staircase(Position(0, step, 8, 1), 0.5, 0.25) for step in range(8)]
    assert fine == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    steps = [staircase(Position(epoch, step, 40, 5), 0.5, 0.05) for epoch in range(5) for step in range(40)]
    assert steps == [0.5 ** (n // 2) for n in range(200)]  # 0.05 epochs are 2 steps; 0.15 // 0.05 would be 2
    assert staircase(Position(0, 3, 10, 1), 0.5, 0.01) == 0.125  # at least a step


def test_rmsprop_has_epsilon_inside_the_root() -> None:
    """Check 9: at a steady gradient of 0.1 the step is 0.0995, torch's 0.0909; the square average begins at 1."""
    steps = {}
    for name, make in (
        ("tf", partial(RMSpropTF, alpha=0.9, eps=1.0)),
        ("torch", partial(torch.optim.RMSprop, alpha=0.9, eps=1.0)),
    ):
        p = nn.Parameter(torch.zeros(1))
        optimizer = make([p], lr=1.0)
        moves = []
        for _ in range(300):
            before = float(p.detach())
            p.grad = torch.tensor([0.1])
            optimizer.step()
            moves.append(before - float(p.detach()))
        steps[name] = moves
    assert steps["tf"][-1] == pytest.approx(0.0995, abs=5e-5)
    assert steps["torch"][-1] == pytest.approx(0.0909, abs=5e-5)
    assert steps["tf"][0] == pytest.approx(0.1 / (0.9 + 0.001 + 1) ** 0.5, abs=1e-5)


def test_full_recipe(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=inception_v4", "scale=full").stages
    trained = [stage for stage in stages.values() if stage.fit]
    assert len(trained) == 10
    for stage in trained:
        optimizer = stage.module["optimizer"]
        assert optimizer["_target_"] == "timm.optim.RMSpropTF"
        assert (optimizer["lr"], optimizer["alpha"], optimizer["eps"]) == (0.045, 0.9, 1.0)
        assert (optimizer["momentum"], optimizer["weight_decay"]) == (0.9, 4e-5)
        schedule = stage.module["schedule"]
        assert schedule["_target_"] == "modules.common.schedules.staircase"
        assert (schedule["decay"], schedule["every"]) == (0.94, 2.0)
        assert stage.trainer["max_epochs"] == 200
        assert stage.reference_batch == stage.data["batch_size"] == 640
        assert stage.trainer["gradient_clip_val"] == 2.0
        assert stage.module["average_decay"] == 0.9999
        assert stage.data["mean"] == stage.data["std"] == [0.5, 0.5, 0.5]  # inputs in [-1, 1]
        assert stage.module["network"]["momentum"] == 3e-4  # TensorFlow's decay 0.9997
    with torch.device("meta"):
        built = {stage.name: training.build(stage.module["network"]) for stage in trained}
    assert {network.dropout for network in built.values()} == {0.2}  # the share dropped; the paper keeps 0.8
    scales = {n: {b.scale for b in m.features if isinstance(b, Residual)} for n, m in built.items()}
    residual = ["inception_resnet_v1", *(f"inception_resnet_v2{end}" for end in ("", "_b", "_c"))]
    expected = {name: {0.1} for name in residual} | {"wide": {1.0}, "wide_scaled": {0.3}}
    assert {name: values for name, values in scales.items() if values} == expected
    members = stages["crops_144"].needs["members"]
    four = [members[stages["crops_144"].module["names"].index(n)] for n in stages["crops_144"].module["ensemble"]]
    assert four == ["inception_v4", "inception_resnet_v2", "inception_resnet_v2_b", "inception_resnet_v2_c"]


def test_networks_with_released_weights_are_fed_as_timm_does(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=inception_v4", "scale=full", "variant=ported").stages
    for name in ("inception_v3", "inception_v4", "inception_resnet_v2"):
        stage, theirs = stages[name], timm.get_pretrained_cfg(f"{stages[name].module['network']['model_name']}")
        assert not stage.fit
        assert theirs is not None
        assert stage.data["interpolation"] == theirs.interpolation
        assert (stage.data["image_size"], stage.data["resize"]) == (299, int(299 / theirs.crop_pct))
        assert tuple(stage.data["mean"]) == theirs.mean
        assert tuple(stage.data["std"]) == theirs.std


def test_released_networks_all_have_the_auxiliary_classifier(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=inception_v4", "scale=full", "variant=released")
    with torch.device("meta"):
        for stage in plan.stages.values():
            if stage.fit:
                network = training.build(stage.module["network"])
                *_, side, _, _ = network.maps(torch.zeros(2, 3, 299, 299))
                assert network.auxiliary(side).shape == (2, 1000)


def without(module: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in module.items() if key not in names}


def test_the_unscaled_rival_differs_by_its_scale_alone(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=inception_v4", "scale=mini").stages
    scaled, unscaled = (stages[name].module["network"] for name in ("inception_resnet_v2", "unscaled"))
    assert [grid["scale"] for grid in scaled["grids"]] == [0.2, 0.2, 0.2]
    assert [grid["scale"] for grid in unscaled["grids"]] == [1.0, 1.0, 1.0]
    assert [without(grid, "scale") for grid in unscaled["grids"]] == [
        without(grid, "scale") for grid in scaled["grids"]
    ]
    assert without(unscaled, "grids") == without(scaled, "grids")


def test_mini_networks_cost_the_same(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=inception_v4", "scale=mini").stages
    with torch.device("meta"):
        built = {n: training.build(s.module["network"]) for n, s in stages.items() if "optimizer" in s.module}
        sizes = {n: (parameters(m), multiply_adds(m, (1, 28, 28))) for n, m in built.items()}
        for residual, concatenated, plain in (
            ("inception_resnet_v2", "inception_v4", "plain"),
            ("inception_resnet_v1", "inception_v3", "plain_shallow"),
        ):
            assert sizes[concatenated][0] == pytest.approx(sizes[residual][0], rel=0.01)
            assert sizes[concatenated][1] == pytest.approx(sizes[residual][1], rel=0.05)
            assert sizes[plain][0] == pytest.approx(sizes[residual][0], rel=0.01)
            assert sizes[plain][1] == sizes[residual][1]
        assert sizes["unscaled"] == sizes["inception_resnet_v2"]
        recipes = [without(s.module, "network", "mistakes", "tolerant", "optimizer") for s in stages.values() if s.fit]
        assert all(recipe == recipes[0] for recipe in recipes)
        optimizers = [without(s.module["optimizer"], "lr") for s in stages.values() if s.fit]
        assert all(optimizer == optimizers[0] for optimizer in optimizers)
        assert built["wide"].out_channels > 1000
        deep = {}
        for name in ("plain", "inception_resnet_v2"):  # as counted for colour images and 4/7/3 blocks
            options = stages[name].module["network"]
            grids = [{**grid, "repeats": count} for grid, count in zip(options["grids"], (4, 7, 3), strict=True)]
            deep[name] = parameters(training.build({**options, "grids": grids, "in_channels": 3}))
    assert deep == {"plain": 106_658, "inception_resnet_v2": 105_986}


def test_published_numbers_hang_on_the_arms_they_came_from() -> None:
    """Errors of Tables 2 to 5 as accuracies: one crop on 48,300 images, more crops on all; timm's of its weights."""
    rows = compose.paper_file("inception_v4")["published"]
    published = {(row.get("variant"), f"{row['stage']}/{row['metric']}"): row["value"] for row in rows}
    names = {"v3": "inception_v3", "resnet_v1": "inception_resnet_v1", "v4": "inception_v4"}
    names |= {"resnet_v2": "inception_resnet_v2"}
    one = {"v3": (21.2, 5.6), "resnet_v1": (21.3, 5.5), "v4": (20.0, 5.0), "resnet_v2": (19.9, 4.9)}
    twelve = {"v3": (19.8, 4.6), "resnet_v1": (19.8, 4.6), "v4": (18.7, 4.2), "resnet_v2": (18.7, 4.1)}
    many = {"v3": (18.9, 4.3), "resnet_v1": (18.8, 4.3), "v4": (17.7, 3.8), "resnet_v2": (17.8, 3.7)}
    errors: dict[tuple[str | None, str], float] = {}
    for place, k in enumerate((1, 5)):
        errors |= {(None, f"{names[short]}/test/top{k}"): pair[place] for short, pair in one.items()}
        errors |= {(None, f"crops_12/test/{short}_top{k}"): pair[place] for short, pair in twelve.items()}
        errors |= {(None, f"crops_144/test/{short}_top{k}"): pair[place] for short, pair in many.items()}
    errors |= {(None, "crops_144/test/top1"): 16.4, (None, "crops_144/test/top5"): 3.1}
    errors |= {("ported", "inception_v4/test/top1"): 19.856, ("ported", "inception_v4/test/top5"): 5.018}
    errors |= {("ported", "inception_resnet_v2/test/top1"): 19.566, ("ported", "inception_resnet_v2/test/top5"): 4.688}
    errors |= {("ported", "inception_v3/test/top1"): 22.138, ("ported", "inception_v3/test/top5"): 6.356}
    assert published == {key: pytest.approx(100 - error) for key, error in errors.items()}
