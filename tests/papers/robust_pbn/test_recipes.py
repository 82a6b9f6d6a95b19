"""The published numbers stand in the full recipe; arms differ in what they are named for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from experiments.running import training
from experiments.running.plan import Plan


def test_shallow_recipe_is_the_published_one(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=robust_pbn", "scale=full").stages
    for name in ("cbc_margin", "cbc_robust", "rbf_ce", "glvq"):
        stage = stages[name]
        assert stage.data["_target_"].endswith("MNIST")
        assert stage.data["batch_size"] == 128
        assert stage.trainer["max_epochs"] * -(-60_000 // 128) == 18_760
        assert stage.trainer["precision"] == "32-true"
        assert stage.module["optimizer"] == {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 5e-3}
        assert stage.module["robustness"]["lengths"] == [0.5, 1.0, 1.58]
    assert stages["cbc_margin"].module["loss"]["margin"] == 0.3
    assert stages["cbc_robust"].module["loss"].get("rho", 1.58) == 1.58
    assert stages["cbc_margin"].module["network"]["sigma"] == 7.61
    assert [stages[n].module["network"]["per_class"] for n in ("cbc_margin", "rbf_margin", "rbf_linear")] == [2, 1, 1]
    squared = make_plan("paper=robust_pbn", "scale=full", "variant=squared").stages["cbc_robust"].module["network"]
    assert (squared["squared"], squared["sigma"]) == (True, 58.0)


@pytest.mark.parametrize(
    ("variant", "classes", "batches", "epochs", "rates"),
    [
        (None, 200, (128, 64, 64), (12, 48, 84), (3.75e-4, 5e-3, 3.75e-4)),
        ("resnet50", 200, (80, 40, 40), (14, 96, 144), (2.25e-4, 4.5e-4, 2.25e-4)),
        ("cars", 196, (128, 64, 64), (12, 48, 84), (2.25e-4, 5e-3, 2.25e-4)),
        ("cars_resnet50", 196, (80, 40, 40), (14, 96, 96), (2.25e-4, 2.25e-3, 2.25e-4)),
        ("pets", 37, (128, 64, 64), (12, 48, 84), (1.75e-4, 5e-3, 1.75e-4)),
        ("pets_resnet50", 37, (80, 40, 40), (14, 96, 144), (6.25e-5, 1.25e-4, 6.25e-5)),
    ],
)
def test_deep_recipes_are_the_published_ones(
    variant: str | None, classes: int, batches: Any, epochs: Any, rates: Any, make_plan: Callable[..., Plan]
) -> None:
    chosen = [f"variant={variant}"] if variant else []
    stages = make_plan("paper=robust_pbn", "scale=full", *chosen).stages
    phases = [stages[name] for name in ("deep_parts", "deep_cbc_head", "deep_cbc")]
    assert tuple(stage.data["batch_size"] for stage in phases) == batches
    assert tuple(stage.reference_batch for stage in phases) == batches
    assert tuple(stage.trainer["max_epochs"] for stage in phases) == epochs
    assert tuple(stage.module["optimizer"]["lr"] for stage in phases) == rates
    assert all(stage.module["optimizer"]["weight_decay"] == 0 for stage in phases)
    assert phases[1].module["classes"] == classes
    assert phases[1].module["loss"]["margin"] == 0.025
    network = stages["deep_start"].module["network"]["backbone"]["_target_"]
    assert network.endswith("resnet50" if "resnet50" in str(variant) else "convnext_tiny")


def test_photos_are_enlarged_as_published(make_plan: Callable[..., Plan]) -> None:
    margins = {}
    for variant in ("", "cars", "pets"):
        chosen = [f"variant={variant}"] if variant else []
        stages = make_plan("paper=robust_pbn", "scale=full", *chosen).stages
        margins[variant] = [
            (stages[n].data["margin"], stages[n].data["first_crop"]) for n in ("deep_parts", "deep_cbc")
        ]
    assert margins == {"": [(32, 4), (8, 4)], "cars": [(32, 4), (32, 4)], "pets": [(48, 8), (48, 8)]}


def test_shallow_arms_start_from_the_same_components(make_plan: Callable[..., Plan]) -> None:
    this = make_plan("paper=robust_pbn")
    built = {
        n: training.construct(this, this.stages[n]).network for n in ("cbc_margin", "cbc_robust", "rbf_ce", "glvq")
    }
    points = [network.components.points for network in built.values()]
    assert all(torch.equal(other, points[0]) for other in points)
    assert torch.equal(built["cbc_margin"].head.logits, built["cbc_robust"].head.logits)


def test_heads_and_losses_are_crossed(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=robust_pbn", "scale=mini").stages
    for kind, phase in (("", ("margin", "ce", "robust")), ("deep", ("_head", "_ce_head"))):
        seen = set()
        for head in ("cbc", "rbf"):
            for loss in phase:
                stage = stages[f"{head}_{loss}" if not kind else f"deep_{head}{loss}"].module
                made = stage["head"] if kind else stage["network"]["head"]
                seen.add((made["_target_"].split(".")[-1], stage["loss"]["_target_"].split(".")[-1]))
        assert len(seen) == 2 * len(phase)
