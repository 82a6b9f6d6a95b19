"""The full recipe: public models by their full names, and the numbers that were measured of them."""

from __future__ import annotations

import pytest
import timm

from experiments.config import compose
from experiments.running.plan import Plan, plan

# top-1, multi-label accuracy, mistakes of 68 images of ImageNet-M (Peychev et al. 2023, models measured alike)
MODELS = {
    "resnet18.tv_in1k": (69.76, 78.36, 52),
    "tf_efficientnet_lite0.in1k": (74.84, 83.58, 50),
    "tf_efficientnet_lite1.in1k": (76.64, 85.88, 48),
    "tf_efficientnet_lite2.in1k": (77.46, 86.38, 48),
    "resnet50.tv2_in1k": (80.86, 90.16, 49),
    "eva02_large_patch14_448.mim_m38m_ft_in22k_in1k": (90.05, 97.80, 44),
}
VARIANTS = {
    None: ["resnet18.tv_in1k", "tf_efficientnet_lite0.in1k", "resnet50.tv2_in1k", [*MODELS][-1]],
    "lites": [f"tf_efficientnet_lite{n}.in1k" for n in range(3)],
}
ANNOTATIONS = {  # released mistakes: all, by severity, by category, the major ones by category
    "vit3b": (378, [154, 150, 74], [241, 54, 52, 30, 1], [87, 22, 37, 7, 1]),
    "greedy_soups": (249, [89, 111, 49], [172, 26, 32, 19], None),
}
CATEGORIES = ("fine_grained", "fine_grained_oov", "spurious", "non_prototypical", "other")


def planned(*lines: str) -> Plan:
    return plan(compose.compose(compose.request(["paper=bagel", *lines]).overrides), 0)


@pytest.mark.parametrize("variant", [None, "lites"])
def test_models_are_public_and_named_in_full(variant: str | None) -> None:
    stages = planned("scale=full", *([f"variant={variant}"] if variant else [])).stages
    models = ["weak", "middle", "strong", "strongest"][: len(VARIANTS[variant])]
    names = [stages[name].module["network"]["model_name"] for name in models]
    assert names == VARIANTS[variant]
    assert all(timm.is_model_pretrained(name) for name in names)
    for name, model in zip(models, names, strict=True):
        stage = stages[name]
        assert not stage.fit
        assert stage.module["network"]["pretrained"]
        assert stage.module["collapse"]  # also right: a class of the same group
        assert stage.data["models"] == [model]  # with its own preprocessing


@pytest.mark.parametrize("variant", [None, "lites"])
def test_the_slice_is_selected_by_the_stronger_two_and_scored_by_the_weakest(variant: str | None) -> None:
    stage = planned("scale=full", *([f"variant={variant}"] if variant else [])).stages["slice"]
    weak, middle, strong, *_ = VARIANTS[variant]
    assert stage.needs == {"judges": ["strong", "middle"], "network": "weak"}
    assert stage.data["models"] == [strong, middle, weak]


def test_published_numbers_hang_on_the_models_they_came_from() -> None:
    rows = [row for row in compose.paper_file("bagel")["published"] if row["stage"] != "annotations"]
    published = {(row.get("variant"), f"{row['stage']}/{row['metric']}"): row["value"] for row in rows}
    for variant, models in VARIANTS.items():
        for stage, model in zip(("weak", "middle", "strong", "strongest"), models, strict=False):
            values = [published[variant, f"{stage}/test/{metric}"] for metric in ("top1", "mla", "m_errors")]
            assert values == list(MODELS[model]), model
    assert published[None, "strongest/test/counted"] == 18_692
    assert {row["scale"] for row in rows} == {"full"}


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_published_counts_are_those_of_the_released_annotations(scale: str) -> None:
    rows = compose.paper_file("bagel")["published"]
    published = {
        row["metric"].removeprefix("test/"): row["value"]
        for row in rows
        if row["stage"] == "annotations" and row["scale"] == scale
    }
    expected: dict[str, float] = {"shared": 164, "shared_same_class": 143, "shared_major": 48}
    expected |= {"pairs": 481, "pair_mistakes": 545}
    expected |= {f"pairs_seen_{n}": count for n, count in zip(range(1, 6), (441, 23, 12, 3, 2), strict=True)}
    for model, (mistakes, severities, categories, major) in ANNOTATIONS.items():
        assert sum(severities) == sum(categories) == mistakes
        counts = {"mistakes": mistakes, "major_share": round(100 * severities[0] / mistakes, 1)}
        counts |= dict(zip(("major", "minor", "borderline"), severities, strict=True))
        counts |= dict(zip(CATEGORIES, categories, strict=False))
        counts |= {f"major_{name}": count for name, count in zip(CATEGORIES, major or [], strict=False)}
        expected |= {f"{model}_{name}": count for name, count in counts.items()}
    assert published == expected


def test_the_guessing_rival_is_the_strongest_network_on_random_labels() -> None:
    stages = plan(compose.compose(compose.request(["paper=bagel", "scale=mini"]).overrides), 0).stages
    strong, random = stages["strong"], stages["random"]
    assert random.module == strong.module
    assert random.data["source"].pop("label_noise") == 1.0
    assert strong.data["source"].pop("label_noise") == 0.0
    assert random.data == strong.data
