"""Published sizes and settings, and that arms differ in what they are named after alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from experiments.running import training
from experiments.running.plan import Plan, Stage
from modules.cda.networks import build_network
from modules.common.schedules import Position


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        ("resnet18_small_images", 200, 11_271_432),
        ("resnet18_small_images", 100, 11_220_132),
        ("resnet18.tv_in1k", 1000, 11_689_512),
        ("resnet50", 1000, 25_557_032),
    ],
)
def test_published_sizes(name: str, classes: int, count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in build_network(name, classes).parameters()) == count


def test_a_small_image_resnet_keeps_the_resolution_at_its_start() -> None:
    network = build_network("resnet18_small_images", 10).eval()
    with torch.inference_mode():
        assert network.maxpool(network.conv1(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 32, 32)  # type: ignore[operator]


def test_networks_that_are_not_there_are_named() -> None:
    with pytest.raises(ValueError, match="no pretrained weights"):
        build_network("resnet18_small_images", 200, pretrained=True)
    with pytest.raises(ValueError, match="vgg11 is no ResNet"):
        build_network("vgg11_small_images", 200)


def recoveries(plan: Plan) -> dict[str, Stage]:
    return {name: stage for name, stage in plan.stages.items() if name.startswith("recover_")}


def without_crops(stage: Stage) -> Any:
    return {**stage.module, "crops": None}, stage.data, stage.trainer, stage.needs


@pytest.mark.parametrize("scale", ["full", "mini"])
def test_arms_of_recovery_differ_in_their_crops_alone(scale: str, make_plan: Callable[..., Plan]) -> None:
    stages = recoveries(make_plan("paper=cda", f"scale={scale}"))
    assert all(without_crops(stage) == without_crops(stages["recover_cosine"]) for stage in stages.values())
    crops = {name: training.build(stage.module["crops"]) for name, stage in stages.items()}
    at = {name: [crop.bound(t, 4000) for t in (0, 2000, 3999)] for name, crop in crops.items()}
    assert at["recover_cosine"] == pytest.approx([1.0, 0.54, 0.08], abs=1e-3)
    assert at["recover_reverse"] == pytest.approx([0.08, 0.54, 1.0], abs=1e-3)
    assert at["recover_constant"] == [0.08] * 3
    assert at["recover_whole"] == [1.0] * 3


@pytest.mark.parametrize("scale", ["full", "mini"])
def test_students_differ_in_their_images_alone(scale: str, make_plan: Callable[..., Plan]) -> None:
    stages = {n: s for n, s in make_plan("paper=cda", f"scale={scale}").stages.items() if n.startswith("student_")}
    assert len(stages) == 8
    assert {stage.start_like for stage in stages.values()} == {"student"}
    for key in ("network", "optimizer", "schedule", "cutmix"):
        assert all(stage.module[key] == stages["student_cosine"].module[key] for stage in stages.values())
    images = [{key: value for key, value in stage.data.items() if key != "images"} for stage in stages.values()]
    assert all(data == images[0] for data in images)


def test_imagenet_recipe(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=cda", "scale=full").stages
    recover, student = stages["recover_cosine"], stages["student_cosine"]
    assert recover.trainer["max_epochs"] * recover.data["batch_size"] == 50_000
    assert recover.data["steps"] == 4000
    module = recover.module
    assert (module["statistics_weight"], module["first_layer_weight"], module["jpeg_quality"]) == (0.01, 10.0, 75)
    assert module["crops"]["jitter"] == 32
    adam = training.build(module["optimizer"])([torch.nn.Parameter(torch.zeros(1))]).defaults
    assert (adam["lr"], tuple(adam["betas"]), adam["eps"]) == (0.25, (0.5, 0.9), 1e-8)

    assert student.data["batch_size"] == student.reference_batch == 128
    assert student.trainer["max_epochs"] == 300
    assert (student.module["temperature"], student.module["cutmix"]) == (20.0, 1.0)
    schedule = training.build(student.module["schedule"])
    factors = [schedule(Position(epoch, step, 391, 300)) for epoch, step in ((0, 0), (150, 0), (150, 390), (299, 0))]
    assert factors == pytest.approx([1, 0.5, 0.5, 0], abs=1e-4)  # constant within an epoch


@pytest.mark.parametrize(
    ("variant", "rate", "weight", "steps", "jitter", "images"),
    [
        ("tiny_imagenet", 0.4, 0.05, 4000, 4, 10_000),
        ("tiny_imagenet_100", 0.4, 0.05, 4000, 4, 20_000),
        ("imagenet21k", 0.05, 0.25, 2000, 32, 209_000),
        ("imagenet21k_10", 0.05, 0.25, 2000, 32, 104_500),
        ("ipc_200", 0.25, 0.01, 4000, 32, 200_000),
    ],
)
def test_other_recipes(
    variant: str, rate: float, weight: float, steps: int, jitter: int, images: int, make_plan: Callable[..., Plan]
) -> None:
    stages = make_plan("paper=cda", "scale=full", f"variant={variant}").stages
    recover = stages["recover_constant"]
    assert recover.module["optimizer"]["lr"] == rate
    assert recover.module["statistics_weight"] == weight
    assert recover.module["crops"]["jitter"] == jitter
    assert recover.data["steps"] == steps
    assert recover.trainer["max_epochs"] * recover.data["batch_size"] == images
    squared = variant.startswith("tiny")
    assert stages["student_cosine"].module.get("squared", False) is squared
    assert stages["student_cosine"].module["optimizer"]["lr"] == (0.2 if squared else 1e-3)


def test_imagenet21k_is_clipped_to_0_and_1(make_plan: Callable[..., Plan]) -> None:
    source = make_plan("paper=cda", "scale=full", "variant=imagenet21k").stages["recover_cosine"].data["source"]
    assert (source["mean"], source["std"]) == ([0.0] * 3, [1.0] * 3)
