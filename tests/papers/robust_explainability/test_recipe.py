"""The full recipe is the published one; networks that are compared differ in what they are named for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from experiments.config import compose
from experiments.config.instantiate import build
from experiments.running.plan import Plan, plan
from modules.common.schedules import Position

ARCHITECTURES = ("alexnet", "googlenet", "densenet161", "mobilenet_v2")


@pytest.mark.parametrize("variant", [None, *ARCHITECTURES])
def test_full_training_is_as_published(variant: str | None, make_plan: Callable[..., Plan]) -> None:
    lines = ["paper=robust_explainability", "scale=full", *([f"variant={variant}"] if variant else [])]
    stages = make_plan(*lines).stages
    vanilla, robust = stages["vanilla"], stages["robust"]
    assert {**robust.module, "attack": None} == {**vanilla.module, "attack": None}
    attack = robust.module["attack"]
    assert (attack["radius"], attack["steps"], attack.get("norm", "l2")) == (3.0, 3, "l2")
    assert attack["rate"] * attack["radius"] / attack["steps"] == pytest.approx(2.0)  # 2 eps / 3
    optimizer = vanilla.module["optimizer"]
    rate = 0.01 if variant == "alexnet" else 0.1
    assert [optimizer[key] for key in ("lr", "momentum", "weight_decay")] == [rate, 0.9, 1e-4]
    assert (vanilla.trainer["max_epochs"], vanilla.reference_batch) == (90, 256)
    assert vanilla.module["network"]["name"] == (variant or "resnet50")
    networks = stages["explained_robust"].needs["networks"]
    assert networks == (["vanilla", "robust"] if variant else ["vanilla", "robust", "advprop", "advprop_5"])
    assert ("advprop" in stages) == (variant is None)


@pytest.fixture(scope="module")
def full() -> Plan:
    return plan(compose.compose(compose.request(["paper=robust_explainability", "scale=full"]).overrides), 0)


@pytest.mark.parametrize(
    ("name", "epochs", "rates"),
    [
        ("vanilla", 90, {0: 0.1, 29: 0.1, 30: 0.01, 60: 0.001, 89: 0.001}),
        ("robust", 90, {0: 0.1, 29: 0.1, 30: 0.01, 60: 0.001, 89: 0.001}),
        ("advprop", 105, {0: 0.1, 2: 0.1, 29: 0.1, 30: 0.01, 60: 1e-3, 90: 1e-4, 100: 1e-5, 104: 1e-5}),
        ("advprop_5", 105, {0: 0.1, 2: 0.1, 29: 0.1, 30: 0.01, 60: 1e-3, 90: 1e-4, 100: 1e-5, 104: 1e-5}),
    ],
)
def test_training_follows_the_released_schedules(full: Plan, name: str, epochs: int, rates: dict[int, float]) -> None:
    """SGD of momentum 0.9 and decay 1e-4 over batches of 256; AdvProp's warm-up goes from 0.1 to 0.1."""
    stage = full.stages[name]
    assert (stage.trainer["max_epochs"], stage.data["batch_size"], stage.reference_batch) == (epochs, 256, 256)
    optimizer = build(stage.module["optimizer"])([torch.nn.Parameter(torch.zeros(1))])
    assert type(optimizer) is torch.optim.SGD
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], group["nesterov"]) == (0.1, 0.9, 1e-4, False)
    schedule = build(stage.module["schedule"])
    made = {epoch: group["lr"] * schedule(Position(epoch, 0, 5000, epochs)) for epoch in rates}
    assert made == pytest.approx(rates)


@pytest.mark.parametrize(("name", "radius", "steps"), [("advprop", 1, 1), ("advprop_5", 4, 5)])
def test_advprops_attacks_are_the_released_ones(full: Plan, name: str, radius: int, steps: int) -> None:
    module = full.stages[name].module
    attack = build(module["attack"])
    assert (attack.radius * 255, attack.steps, attack.clean_start) == (pytest.approx(radius, abs=1e-6), steps, 0.2)
    assert max(attack.step or 0, attack.radius / attack.steps) * 255 == pytest.approx(1, abs=1e-6)
    assert module["network"]["half_range"] is True
    assert module.get("weight", 1.0) == 1.0


def test_images_are_augmented_as_imagenets_are(full: Plan) -> None:
    for name in ("vanilla", "robust", "advprop", "advprop_5"):
        data = full.stages[name].data
        assert data["_target_"].rpartition(".")[2] == "ImageNet"
        assert data.get("size", 224) == 224


def test_measures_are_as_published(full: Plan) -> None:
    for name in ("vanilla", "robust", "advprop", "advprop_5"):
        module = full.stages[f"explained_{name}"].module
        assert set(module["methods"]) == {
            *("gradient", "input_x_gradient", "smoothgrad", "integrated_gradients"),
            *("gradcam", "scorecam", "rise", "lime", "perturbation"),
        }
        measures = build(module["measures"])
        curves = measures.curves
        assert (curves.steps, curves.blur, curves.sigma) == (224, 11, 5.0)
        rise = build(module["methods"]["rise"])
        assert (rise.masks, rise.grid, rise.p) == (4000, 7, 0.5)
        assert measures.tolerance == 15
        assert full.stages[f"explained_{name}"].data["images"] == 2000


def test_published_numbers_of_full(full: Plan) -> None:
    rows = {
        (row["stage"], variant): row["value"]
        for row in full.config["published"]
        for variant in ([row["variant"]] if isinstance(row["variant"], str) else row["variant"])
    }
    resnet50 = {"vanilla": 75.80, "robust": 62.83, "advprop": 77.42}
    assert rows == {
        **{(name, variant): top1 for name, top1 in resnet50.items() for variant in ("default", "released")},
        **{("vanilla", "densenet161"): 77.37, ("robust", "densenet161"): 66.98},
        **{("vanilla", "mobilenet_v2"): 65.26, ("robust", "mobilenet_v2"): 50.40},
    }
    assert {row["metric"] for row in full.config["published"]} == {"test/top1"}
    assert {row["scale"] for row in full.config["published"]} == {"full"}


def apart_from_rate(options: Mapping[str, Any]) -> dict[str, Any]:
    """Each arm has its own best rate."""
    return {key: value for key, value in options.items() if key != "lr"}


@pytest.mark.parametrize("scale", ["full", "mini", "smoke"])
def test_what_is_compared_differs_in_what_it_is_named_for(scale: str, make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=robust_explainability", f"scale={scale}").stages
    trained = [stages[name] for name in ("vanilla", "robust", "advprop")]
    assert len({str(stage.data) for stage in trained}) == 1
    assert {stage.start_like for stage in trained} == {"network"}
    if scale != "full":
        for stage in trained[1:]:
            assert stage.trainer == trained[0].trainer
            for part in ("optimizer", "schedule", "network"):
                assert apart_from_rate(stage.module[part]) == apart_from_rate(trained[0].module[part])
    explained = [stage for name, stage in stages.items() if name.startswith("explained_")]
    for stage in explained[1:]:
        assert (stage.data, stage.module) == (explained[0].data, explained[0].module)
        assert stage.needs["networks"] == explained[0].needs["networks"]
    assert {name: stage.needs.get("reference") for name, stage in stages.items() if stage.needs.get("reference")} == {
        "explained_vanilla": "robust"
    }
    for stage in explained:
        assert stage.data.get("tuning", True) is True


def test_released_weights_are_not_trained(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=robust_explainability", "scale=full", "variant=released").stages
    for name in ("vanilla", "robust", "advprop", "advprop_5"):
        assert stages[name].fit is False
        assert stages[name].module["network"]["pretrained"].endswith(".pt")
