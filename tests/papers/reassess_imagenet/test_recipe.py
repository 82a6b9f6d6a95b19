"""The full recipe: public models by their full names, each tested as timm tests it, and the published numbers."""

from __future__ import annotations

from typing import Any

import pytest
import timm

from experiments.config import compose
from experiments.running.plan import Plan, plan

MODELS = {  # name, top-1 on ImageNet, ReaL accuracy, top-1 on ImageNetV2 (timm's result tables)
    "model_resnet18": ("resnet18.tv_in1k", 69.752, 77.291, 57.35),
    "model_resnet50": ("resnet50.tv_in1k", 76.156, 82.969, 63.19),
    "model_vit_base": ("vit_base_patch16_224.augreg_in21k_ft_in1k", 84.534, 88.887, 74.10),
    "model_lite0": ("tf_efficientnet_lite0.in1k", 74.846, 81.957, 62.65),
    "model_lite1": ("tf_efficientnet_lite1.in1k", 76.674, 83.344, 64.58),
    "model_lite2": ("tf_efficientnet_lite2.in1k", 77.470, 84.111, 65.33),
    "model_l2": ("tf_efficientnet_l2.ns_jft_in1k_475", 88.246, 90.527, 80.52),
}
COUNTED = {  # images by how many labels they have, from one on
    "v1": (50_000, 3_163, 46_837, 7_443, [39_394, 5_408, 1_319, 411, 161, 88, 41, 13, 2]),
    "v2": (10_000, 129, 9_871, 4_788, [5_083, 2_385, 1_306, 628, 237, 127, 48, 23, 18, 13, 1, 2]),
}


def planned(*lines: str) -> Plan:
    return plan(compose.compose(compose.request(["paper=reassess_imagenet", *lines]).overrides), 0)


@pytest.fixture(scope="module")
def full() -> Plan:
    return planned("scale=full")


def test_models_are_public_and_named_in_full(full: Plan) -> None:
    names = {n: stage.module["network"]["model_name"] for n, stage in full.stages.items() if n.startswith("model_")}
    assert names == {stage: name for stage, (name, *_) in MODELS.items()}
    assert all(timm.is_model_pretrained(name) for name in names.values())


def test_nothing_is_trained_and_ranks_are_those_of_single_precision(full: Plan) -> None:
    for name in MODELS:
        stage = full.stages[name]
        assert not stage.fit
        assert stage.module["network"]["pretrained"]
        assert stage.trainer["precision"] == "32-true"
        assert stage.data["model"] == stage.module["network"]["model_name"]  # its own size, crop, mean and deviation


def test_published_numbers_hang_on_the_models_they_came_from() -> None:
    rows = compose.paper_file("reassess_imagenet")["published"]
    published = {f"{r['stage']}/{r['metric']}": r["value"] for r in rows if r["stage"].startswith("model_")}
    expected: dict[str, float] = {}
    for stage, (_, v1, real, v2) in MODELS.items():
        expected |= {f"{stage}/test/v1_top1": v1, f"{stage}/test/v1_real": real, f"{stage}/test/v2_top1": v2}
    assert published == expected


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_published_counts_are_those_of_the_label_files(scale: str) -> None:
    rows = compose.paper_file("reassess_imagenet")["published"]
    published: dict[str, Any] = {
        r["metric"].removeprefix("test/"): r["value"] for r in rows if r["stage"] == "labels" and r["scale"] == scale
    }
    expected: dict[str, float] = {"v1_multi_share": 16, "v2_multi_share_of_all": 47.88, "v1_labels_10": 0}
    for label_set, (images, empty, usable, multi, histogram) in COUNTED.items():
        counts = {"n": images, "empty": empty, "usable": usable, "multi": multi}
        counts |= {f"labels_{k}": count for k, count in enumerate(histogram, start=1)}
        expected |= {f"{label_set}_{name}": count for name, count in counts.items()}
        assert empty + usable == images
        assert sum(histogram) == usable
        assert sum(histogram[1:]) == multi
    assert published == expected
