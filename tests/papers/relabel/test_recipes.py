"""The recipes: published rates and sizes, what the arms of a comparison share, and what goes from stage to stage."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.optim import AdamP

from experiments.config import claims, compose
from experiments.running import training
from experiments.running.plan import Plan
from modules.common.schedules import Position
from modules.relabel.module import ReLabel

STUDENT = {"_target_": "modules.relabel.networks.resnet", "classes": 1000}
ARMS = ("relabel", "global", "single", "swapped", "original")
REAL = {"relabel": 85.0, "original": 83.6, "smoothed": 84.0}  # accuracy by all labels that count as right


def test_the_full_recipe_is_the_published_one(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=relabel", "scale=full").stages
    for name in (*ARMS, "smoothed", "relabel_cutmix", "original_cutmix"):
        stage = stages[name]
        assert stage.data["batch_size"] == stage.reference_batch == 1024
        assert stage.trainer["max_epochs"] == 300
        assert stage.module["network"] == {**STUDENT, "depth": 50}
        schedule = training.build(stage.module["schedule"])
        steps = math.ceil(1_281_167 / 1024)
        assert steps == 1252
        factors = [
            schedule(Position(epoch, step, steps, 300)) for epoch, step in ((0, 0), (4, 1251), (5, 0), (299, 1251))
        ]
        assert factors == pytest.approx([1 / (5 * 1252), 1, 1, 0], abs=1e-6)
    optimizer = training.build(stages["relabel"].module["optimizer"])([torch.nn.Parameter(torch.zeros(1))])
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.1, 0.9, True, 1e-4)
    mixed = training.build(stages["relabel_cutmix"].module["optimizer"])([torch.nn.Parameter(torch.zeros(1))])
    (group,) = mixed.param_groups
    assert isinstance(mixed, AdamP)
    assert (group["lr"], group["betas"], group["weight_decay"], group["nesterov"]) == (2e-3, [0.9, 0.999], 1e-2, True)
    assert stages["relabel_cutmix"].module["cutmix"]["plain_epochs"] == 5
    assert stages["smoothed"].module["labels"]["smoothing"] == 0.1


def test_the_annotator_is_named_in_full(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=relabel", "scale=full").stages
    assert stages["annotator"].module["network"]["model_name"] == "tf_efficientnet_l2.ns_jft_in1k_475"
    assert stages["annotator"].data["image_size"] == stages["maps"].data["image_size"] == 475
    assert stages["maps"].module["kept"] == 5
    assert not stages["annotator"].fit
    assert not stages["maps"].fit


@pytest.mark.parametrize("depth", [18, 101])
def test_other_students(depth: int, make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=relabel", "scale=full", f"variant=resnet{depth}").stages
    assert all(stages[name].module["network"] == {**STUDENT, "depth": depth} for name in ARMS)


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_arms_differ_in_their_labels_alone(scale: str, make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=relabel", f"scale={scale}").stages
    reference = stages["relabel"]
    for name in ARMS:
        stage = stages[name]
        module: dict[str, Any] = {**stage.module}
        for switch in ("labels", "optimizer"):
            module[switch] = reference.module[switch]
        assert module == reference.module
        assert {**stage.module["optimizer"], "lr": 0} == {**reference.module["optimizer"], "lr": 0}  # tuned for each
        assert stage.data == reference.data
        assert stage.trainer == reference.trainer
        assert stage.start_like == "student"
        assert stage.feeds == ({} if name == "original" else {"maps": "maps"})


def test_the_main_claim_is_about_the_place_on_the_map(make_plan: Callable[..., Plan]) -> None:
    """Its rivals have labels of the same maps, and one grid of rates chooses for all of them."""
    config = make_plan("paper=relabel", "scale=mini").config
    main = claims.read(config).main
    assert main is not None
    assert main.better == "relabel/test/top1"
    assert [each.than for each in main.against().values()] == [
        "original/test/top1",
        "global/test/top1",
        "swapped/test/top1",
    ]
    assert list(config["tune"]["arms"]) == ["relabel", "original", "global", "swapped"]


def test_cutmix_is_compared_at_equal_length(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=relabel", "scale=mini").stages
    assert stages["relabel_cutmix"].trainer == stages["relabel_long"].trainer
    without = {name: value for name, value in stages["relabel_cutmix"].module.items() if name != "cutmix"}
    assert without == stages["relabel_long"].module


def test_rates_are_chosen_on_images_that_no_stage_learns_from(make_plan: Callable[..., Plan]) -> None:
    """Both halves of the training images leave the validation images out; the annotator has the same split."""
    stages = make_plan("paper=relabel", "scale=mini").stages
    assert stages["annotator"].data["source"] == stages["maps"].data["source"] == stages["relabel"].data["source"]
    assert stages["relabel"].data["source"]["val_size"] > 0
    assert stages["relabel"].data["counts"]["val_singles"] > 0


def test_maps_are_made_of_the_students_images(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=relabel", "scale=mini").stages
    for key in ("half", "seed", "source"):
        assert stages["maps"].data[key] == stages["relabel"].data[key]
    for key in ("singles", "pairs"):
        assert stages["maps"].data["counts"][key] == stages["relabel"].data["counts"][key]
    assert stages["annotator"].data["half"] != stages["relabel"].data["half"]
    assert stages["maps"].module["kept"] == stages["annotator"].module["classes"] == 10  # untruncated


def test_arms_start_with_the_same_weights(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=relabel", "scale=smoke")
    first, second = (training.construct(plan, plan.stages[name]) for name in ("relabel", "original"))
    assert isinstance(first, ReLabel)
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_published_numbers_hang_on_the_arms_they_came_from() -> None:
    """The README's; of ResNet-18 also what runs anew gave."""
    rows = compose.paper_file("relabel")["published"]
    published = {(row.get("variant"), f"{row['stage']}/{row['metric']}", row["value"]) for row in rows}
    top1 = {
        None: {"relabel": 78.9, "original": 77.5, "relabel_cutmix": 80.2, "smoothed": 78.0},
        "resnet18": {"relabel": 72.5, "original": 71.7, "relabel_cutmix": 73.2},
        "resnet101": {"relabel": 80.7, "original": 78.1, "relabel_cutmix": 81.6},
    }
    expected = {(variant, f"{arm}/test/top1", value) for variant, arms in top1.items() for arm, value in arms.items()}
    expected |= {(None, f"{arm}/test/real_acc", value) for arm, value in REAL.items()}
    expected |= {("resnet18", "relabel/test/top1", 72.546), ("resnet18", "relabel_cutmix/test/top1", 72.8)}
    assert published == expected


def test_crops_and_their_labels_are_the_published_ones(make_plan: Callable[..., Plan]) -> None:
    """Random crops of 8 to 100% of the area; CutMix on every batch of the arms that have it."""
    stages = make_plan("paper=relabel", "scale=full").stages
    for name in (*ARMS, "smoothed", "relabel_cutmix", "original_cutmix"):
        stage = stages[name]
        assert stage.data["image_size"] == 224
        assert stage.data["crop_scale"] == [0.08, 1.0]
        assert stage.module.get("cutmix", {}).get("alpha") == (1.0 if name.endswith("_cutmix") else None)
    labels = {name: stages[name].module["labels"] for name in ARMS}
    assert {name: (each["kind"], each["single"]) for name, each in labels.items()} == {
        "relabel": ("localised", False),
        "global": ("global", False),
        "single": ("localised", True),
        "swapped": ("localised", False),
        "original": ("original", False),
    }
    assert {name: labels[name]["coordinates"] for name in ("relabel", "swapped")} == {
        "relabel": "xyxy",
        "swapped": "yxyx",
    }
