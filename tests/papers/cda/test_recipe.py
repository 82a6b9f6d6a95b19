"""Published sizes and settings, and that arms differ in what they are named after alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from experiments.config import claims, compose
from experiments.running import training
from experiments.running.plan import Plan, Stage, plan
from modules.cda.networks import build_network
from modules.common.schedules import Position


def settle(*lines: str) -> Plan:
    return plan(compose.compose(compose.request(["paper=cda", *lines]).overrides), 0)


@pytest.fixture(scope="module")
def full() -> Plan:
    return settle("scale=full")


@pytest.fixture(scope="module")
def mini() -> Plan:
    return settle("scale=mini")


@pytest.mark.parametrize(
    ("name", "classes", "count"),
    [
        ("resnet18_small_images", 200, 11_271_432),
        ("resnet18_small_images", 100, 11_220_132),
        ("timm/resnet18.tv_in1k", 1000, 11_689_512),
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
    for name in ("resnet18_small_images", "resnet18"):
        with pytest.raises(ValueError, match=rf"{name} has no pretrained weights here"):
            build_network(name, 200, pretrained=True)
    with pytest.raises(ValueError, match="vgg11: expected one of torchvision"):
        build_network("vgg11_small_images", 200)


def last_norms(network: nn.Module) -> list[float]:
    """Scale of the last norm of each residual block: of channel 0 where all are alike."""
    blocks = [block for block in network.modules() if type(block).__name__ in ("BasicBlock", "Bottleneck")]
    norms = [getattr(block, "bn3", None) or block.bn2 for block in blocks]
    assert all(torch.all(norm.weight == norm.weight[0]) for norm in norms)
    return [float(norm.weight[0].detach()) for norm in norms]


@pytest.mark.parametrize(
    ("variant", "student", "squeezed"),
    [
        (None, 1.0, None),  # squeezed: weights of torchvision
        ("resnet50", 1.0, None),
        ("tiny_imagenet", 1.0, 1.0),
        ("imagenet21k", 1.0, 0.0),  # squeezed into timm's
    ],
)
def test_blocks_start_as_in_torchvision(variant: str | None, student: float, squeezed: float | None) -> None:
    stages = settle("scale=full", *([f"variant={variant}"] if variant else [])).stages
    for name in ("student_cosine", "student_hard"):
        assert set(last_norms(training.build(stages[name].module["network"]))) == {student}
    network = stages["squeeze"].module["network"]
    assert network["pretrained"] is (squeezed is None)
    if squeezed is not None:
        assert set(last_norms(training.build(network))) == {squeezed}
    else:
        assert network["name"] == "timm/resnet18.tv_in1k"


def recoveries(plan: Plan) -> dict[str, Stage]:
    return {name: stage for name, stage in plan.stages.items() if name.startswith("recover_")}


def without_crops(stage: Stage) -> Any:
    """All of a recovery but its crops and its rate, which is tuned arm by arm."""
    optimizer = {**stage.module["optimizer"], "lr": None}
    return {**stage.module, "crops": None, "optimizer": optimizer}, stage.data, stage.trainer, stage.needs


@pytest.mark.parametrize("scale", ["full", "mini"])
def test_arms_of_recovery_differ_in_their_crops_and_rates_alone(scale: str, request: pytest.FixtureRequest) -> None:
    stages = recoveries(request.getfixturevalue(scale))
    assert all(without_crops(stage) == without_crops(stages["recover_cosine"]) for stage in stages.values())
    crops = {name: training.build(stage.module["crops"]) for name, stage in stages.items()}
    at = {name: [crop.bound(t, 4000) for t in (0, 2000, 3999)] for name, crop in crops.items()}
    assert at["recover_cosine"] == pytest.approx([1.0, 0.54, 0.08], abs=1e-3)
    assert at["recover_reverse"] == pytest.approx([0.08, 0.54, 1.0], abs=1e-3)
    assert at["recover_constant"] == [0.08] * 3
    assert at["recover_whole"] == [1.0] * 3


def test_controls_see_as_much_of_the_image_as_the_cosine(mini: Plan) -> None:
    """Mean lower bound 0.54, so a mean crop of 77%, in another order or in none; SRe2L's is 54%."""
    crops = {name: training.build(stage.module["crops"]) for name, stage in recoveries(mini).items()}
    means = {name: sum(crop.bound(t, 4000) for t in range(4000)) / 4000 for name, crop in crops.items()}
    for name in ("cosine", "linear", "reverse", "shuffled", "half"):
        assert means[f"recover_{name}"] == pytest.approx(0.54, abs=1e-3)
    assert means["recover_constant"] == pytest.approx(0.08)
    assert (1 + means["recover_cosine"]) / 2 == pytest.approx(0.77, abs=1e-3)
    assert (1 + means["recover_constant"]) / 2 == pytest.approx(0.54)


@pytest.mark.parametrize("scale", ["full", "mini"])
def test_students_differ_in_their_images_alone(scale: str, request: pytest.FixtureRequest) -> None:
    settled = request.getfixturevalue(scale)
    stages = {name: stage for name, stage in settled.stages.items() if name.startswith("student_")}
    assert len(stages) == 10
    assert {stage.start_like for stage in stages.values()} == {"student"}
    for key in ("network", "optimizer", "schedule", "cutmix"):
        assert all(stage.module[key] == stages["student_cosine"].module[key] for stage in stages.values())
    images = [{key: value for key, value in stage.data.items() if key != "images"} for stage in stages.values()]
    assert all(data == images[0] for data in images)


def test_mini_squeezes_under_the_crops_that_its_students_see(mini: Plan) -> None:
    """As torchvision's networks did: what the squeezed one says of a crop of 8% is then more than a guess."""
    squeezed = mini.stages["squeeze"].data
    crop = squeezed["source"]["augment"][0]
    assert crop == {"_target_": "datamodules.common.augment.RandomResizedCrop", "scale": [0.08, 1.0]}
    for name, stage in mini.stages.items():
        if name.startswith("student_"):
            assert stage.data["augment"] == squeezed["source"]["augment"]
    assert (squeezed["side"] ** 2 * crop["scale"][0]) ** 0.5 > 15  # pixels from side to side of the smallest


def test_imagenet_recipe(full: Plan) -> None:
    stages = full.stages
    recover, student = stages["recover_cosine"], stages["student_cosine"]
    assert recover.trainer["max_epochs"] * recover.data["batch_size"] == 50_000
    assert (recover.data["steps"], recover.data["batch_size"]) == (4000, 100)
    module = recover.module
    assert (module["statistics_weight"], module["first_layer_weight"], module["jpeg_quality"]) == (0.01, 10.0, 75)
    assert module["crops"]["jitter"] == 32
    adam = training.build(module["optimizer"])([torch.nn.Parameter(torch.zeros(1))]).defaults
    assert (adam["lr"], tuple(adam["betas"]), adam["eps"]) == (0.25, (0.5, 0.9), 1e-8)
    schedule = training.build(module["schedule"])
    assert [schedule(Position(0, t, 4000, 1)) for t in (0, 2000, 3999)] == pytest.approx([1, 0.5, 0], abs=1e-3)

    assert student.data["batch_size"] == student.reference_batch == 128
    assert student.trainer["max_epochs"] == 300
    assert (student.module["temperature"], student.module["cutmix"]) == (20.0, 1.0)
    adamw = training.build(student.module["optimizer"])([torch.nn.Parameter(torch.zeros(1))])
    assert isinstance(adamw, torch.optim.AdamW)
    assert (adamw.defaults["lr"], adamw.defaults["weight_decay"]) == (1e-3, 1e-2)
    augment = [training.build(operation) for operation in student.data["augment"]]
    assert [type(operation).__name__ for operation in augment] == ["RandomResizedCrop", "HorizontalFlip"]
    assert (tuple(augment[0].scale), augment[1].p) == ((0.08, 1.0), 0.5)
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
def test_other_recipes(variant: str, rate: float, weight: float, steps: int, jitter: int, images: int) -> None:
    stages = settle("scale=full", f"variant={variant}").stages
    recover = stages["recover_constant"]
    assert recover.module["optimizer"]["lr"] == rate
    assert recover.module["statistics_weight"] == weight
    assert recover.module["crops"]["jitter"] == jitter
    assert recover.data["steps"] == steps
    assert recover.trainer["max_epochs"] * recover.data["batch_size"] == images
    student = stages["student_cosine"]
    squared = variant.startswith("tiny")
    assert student.module.get("squared", False) is squared
    assert student.module["optimizer"]["lr"] == (0.2 if squared else 1e-3)
    assert (student.data["batch_size"], student.trainer["max_epochs"]) == ((256, 100) if squared else (128, 300))


def test_imagenet21k_is_clipped_to_0_and_1() -> None:
    source = settle("scale=full", "variant=imagenet21k").stages["recover_cosine"].data["source"]
    assert (source["mean"], source["std"]) == ([0.0] * 3, [1.0] * 3)


@pytest.mark.parametrize(
    ("variant", "sre2l", "cda"),
    [
        (None, 46.8, 53.5),
        ("ipc_100", 52.8, 58.0),
        ("ipc_200", 57.0, 63.3),
        ("resnet50", 55.6, 61.3),
        ("resnet101", 57.6, 61.6),
        ("tiny_imagenet", 41.1, 48.7),
        ("tiny_imagenet_100", 49.7, 53.2),
        ("imagenet21k", 21.8, 26.4),
        ("imagenet21k_10", 18.5, 22.6),
    ],
)
def test_published_rows(variant: str | None, sre2l: float, cda: float) -> None:
    config = settle("scale=full", *([f"variant={variant}"] if variant else [])).config
    rows = {f"{row.stage}/{row.metric}": row.value for row in claims.published(config)}
    assert (rows["student_constant/test/top1"], rows["student_cosine/test/top1"]) == (sre2l, cda)
    (difference,) = [c.published["difference"] for c in claims.read(config).claims if c.published]
    assert difference == pytest.approx(cda - sre2l)
    assert 63.2 not in rows.values()  # the headline belongs to a student that nobody names
