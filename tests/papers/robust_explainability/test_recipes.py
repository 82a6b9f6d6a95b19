"""The full recipe is the published one; networks that are compared differ in what they are named for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.running.plan import Plan
from modules.common.schedules import Position
from modules.robust_explainability.schedules import warmed_multistep

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


def test_advprop_is_as_released(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=robust_explainability", "scale=full").stages
    for name, radius, steps in (("advprop", 1, 1), ("advprop_5", 4, 5)):
        stage = stages[name]
        assert stage.trainer["max_epochs"] == 105
        assert stage.module["schedule"]["milestones"] == [30, 60, 90, 100]
        assert stage.module["attack"]["radius"] == pytest.approx(radius / 255, abs=1e-8)
        assert stage.module["attack"]["steps"] == steps
        assert stage.module["network"]["half_range"] is True
    rates = [warmed_multistep(Position(e, 0, 1000, 105), [30, 60, 90, 100]) for e in (0, 2, 5, 30, 60, 90, 104)]
    assert rates == pytest.approx([2e-4, 0.4002, 1, 0.1, 0.01, 1e-3, 1e-4])


def test_measures_are_as_published(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=robust_explainability", "scale=full").stages
    for name in ("vanilla", "robust", "advprop", "advprop_5"):
        module = stages[f"explained_{name}"].module
        assert len(module["methods"]) == 9
        assert (module["curves"]["steps"], module["curves"]["blur"], module["curves"]["sigma"]) == (224, 11, 5.0)
        assert (module["methods"]["rise"]["masks"], module["methods"]["rise"]["grid"]) == (4000, 7)
        assert module["tolerance"] == 15
        assert stages[f"explained_{name}"].data["images"] == 2000


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
                assert stage.module[part] == trained[0].module[part]
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
