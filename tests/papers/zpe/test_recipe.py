"""The published settings: sets, splits and counts, the model, thresholds, published rows."""

from __future__ import annotations

import pytest

from experiments.config import claims, compose
from experiments.running import training
from experiments.running.plan import Plan, plan
from modules.zpe.scoring import Score, Weighting

IMAGENETS = {"imagenet": 50_000, "imagenet_v2": 10_000, "imagenet_r": 30_000, "imagenet_a": 7_500}
IMAGENETS |= {"imagenet_sketch": 50_889}
FINE_GRAINED = {
    "caltech101": 6_084,
    "cars196": 8_041,
    "cifar10": 10_000,
    "cifar100": 10_000,
    "dtd": 1_880,
    "eurosat": 27_000,  # the whole set
    "food101": 25_250,
    "oxford_flowers102": 6_149,
    "oxford_iiit_pet": 3_669,
    "resisc45": 31_500,  # the whole set
    "sun397": 21_750,  # TensorFlow Datasets' own fifth
}
ADDRESSES = {
    "imagenet": "image-net.org",
    "imagenet_v2": "huggingface.co/datasets/vaishaal/ImageNetV2",
    "imagenet_r": "github.com/hendrycks/imagenet-r",
    "imagenet_a": "github.com/hendrycks/natural-adv-examples",
    "imagenet_sketch": "github.com/HaohanWang/ImageNet-Sketch",
}


def full(*lines: str) -> Plan:
    return plan(compose.compose(compose.request(["paper=zpe", "scale=full", *lines]).overrides), 0)


@pytest.fixture(scope="module")
def imagenet() -> Plan:
    return full()


@pytest.fixture(scope="module")
def fine_grained() -> Plan:
    return full("variant=fine_grained")


@pytest.mark.parametrize(("settled", "sets"), [("imagenet", IMAGENETS), ("fine_grained", FINE_GRAINED)])
def test_sets_have_a_source_a_split_and_a_count(
    settled: str, sets: dict[str, int], request: pytest.FixtureRequest
) -> None:
    stages = request.getfixturevalue(settled).stages
    data = {n.removeprefix("set_"): training.build(s.data) for n, s in stages.items() if n.startswith("set_")}
    assert {name: dataset.collection.size for name, dataset in data.items()} == sets
    for name, dataset in data.items():
        address = ADDRESSES.get(name, f"tensorflow.org/datasets/catalog/{name}")
        assert address in dataset.spec.where
        assert dataset.spec.split != "all photos of the folder"
        assert dataset.image_size == 224
    assert stages["zpe"].data["names"] == list(sets)
    for name in ("eurosat", "resisc45"):
        assert name not in data or "the whole set" in data[name].spec.split


def test_sets_of_200_classes_have_the_templates_of_imagenet(imagenet: Plan) -> None:
    for name in ("imagenet_r", "imagenet_a"):
        prompts = training.build(imagenet.stages[f"set_{name}"].data).given
        assert (prompts.classes, prompts.own) == (name, "imagenet")


def test_model_and_pretraining_images(imagenet: Plan) -> None:
    network = imagenet.stages["model"].module["network"]
    assert (network["model_name"], network["pretrained"]) == ("ViT-B-16-quickgelu", "openai")
    photos = training.build(imagenet.stages["pretraining"].data)
    assert (photos.collection.size, photos.title) == (20_000, "LAION-400M")
    assert "laion.ai/blog/laion-400-open-dataset" in photos.spec.where
    assert imagenet.stages["quarter"].module["score"]["pretraining_images"] == 5_000
    assert not any(stage.fit for stage in imagenet.stages.values())
    assert {stage.trainer["precision"] for stage in imagenet.stages.values()} == {"32-true"}
    assert full("variant=vit_b32").stages["model"].module["network"]["model_name"] == "ViT-B-32-quickgelu"


def test_scores_weights_and_thresholds(imagenet: Plan, fine_grained: Plan) -> None:
    stages = imagenet.stages
    scores = {name: training.build(s.module["score"]) for name, s in stages.items() if s.module.get("score")}
    assert all(isinstance(score, Score) for score in scores.values())
    rules = {"zpe": "both", "naive": "none", "raw": "none", "by_test": "test", "by_pretrain": "pretrain"}
    assert {name: scores[name].normalisation for name in rules} == rules
    for settled, tau in ((imagenet, 0.5), (fine_grained, 2.0)):
        weighting = training.build(settled.stages["selected"].module["weighting"])
        assert isinstance(weighting, Weighting)
        assert weighting.tau == tau
    assert stages["class_name"].module["prompts"] == ["{}"]
    assert stages["photo_prompt"].module["prompts"] == ["a photo of a {}."]
    assert (stages["own"].module["prompts"], stages["equal"].module.get("prompts", "pool")) == ("own", "pool")


def test_published_rows(imagenet: Plan) -> None:
    rows = {f"{row.stage}/{row.metric}": row.value for row in claims.published(imagenet.config)}
    assert rows == {
        "class_name/test/imagenet_top1": 64.18,
        "photo_prompt/test/imagenet_top1": 66.92,
        "own/test/imagenet_top1": 68.57,
        "renormalised/test/imagenet_top1": 68.34,
        "renormalised/test/imagenet_v2_top1": 61.88,
        "renormalised/test/imagenet_r_top1": 77.70,
        "renormalised/test/imagenet_a_top1": 49.95,
        "renormalised/test/imagenet_sketch_top1": 48.24,
    }
