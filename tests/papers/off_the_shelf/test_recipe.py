"""The recipes: the paper's numbers at full scale, and arms that differ in one thing."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from experiments.config import claims, compose
from experiments.running.plan import Plan


def test_full_recipe_is_the_papers(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=off_the_shelf", "scale=full").stages
    network = stages["backbone"].module
    assert (network["network"]["size"], network["side"], network["layer"], network["relu"]) == (
        "large",
        221,
        "fc1",
        False,
    )
    costs = {"svm": 0.2, "mit_svm": 2, "birds_svm": 2, "flowers_svm": 2, "h3d_svm": 0.2, "uiuc_svm": 0.2}
    for name, cost in costs.items():
        one, many = stages[name].module, stages[name.replace("svm", "aug")].module
        assert one["cost"] == many["cost"] == cost
        assert (one["loss"], one["exponent"], one["train_views"], one["test_views"]) == ("hinge", 1.0, 1, 1)
        assert (many["loss"], many["exponent"], many["train_views"], many["test_views"]) == (
            "squared_hinge",
            2.0,
            None,
            None,
        )
        multilabel = name in ("svm", "uiuc_svm", "h3d_svm")
        assert one["scheme"] == many["scheme"] == ("multilabel" if multilabel else "one_vs_one")
    assert stages["birds_views"].data["context"] == stages["h3d_views"].data["context"] == 1.5
    assert not any(stage.module.get("renormalise") for stage in stages.values())
    jittered = [
        stage for stage in stages.values() if stage.module.get("views", {}).get("_target_", "").endswith("Jitter")
    ]
    assert len(jittered) == 8
    for stage in jittered:
        assert round(2 * stage.data["side"] / 3) == network["side"]  # crops are not enlarged
    for prefix in ("", "paris_", "sculptures_"):
        rule = "steps" if prefix == "sculptures_" else "trapezoid"
        assert {stages[prefix + n].module.get("rule", "steps") for n in ("global", "search", "whitened")} == {rule}
        assert [stages[prefix + n].fit for n in ("global", "search", "whitened")] == [False, False, True]
        assert stages[f"{prefix}patches"].module["views"]["levels"] == 4
        search, whitened = (stages[f"{prefix}{name}"].module for name in ("search", "whitened"))
        assert search["query_views"] == whitened["query_views"] == 14
        assert search["reference_views"] is None
        assert (whitened["dimensions"], whitened["whiten"], whitened["exponent"]) == (500, True, 2.0)
    for name in ("holidays", "ukbench"):
        assert stages[f"{name}_views"].module["views"]["mirror"] is False
        assert stages[f"{name}_whitened"].module["query_views"] is None


def test_arms_of_a_comparison_differ_where_they_should(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=off_the_shelf", "scale=mini").stages
    for n in (100, 300, 1000):
        arms = [stages[f"{kind}_{n}"] for kind in ("cnn", "hog", "pixels", "colours", "untrained")]
        assert all(arm.data == arms[0].data and arm.module == arms[0].module for arm in arms)
        assert arms[0].data["first"] == n
    changed = {"aug": "exponent", "rooted": "exponent"}
    for name, key in changed.items():
        ours, reference = stages[name].module, stages["summed"].module
        assert {k for k in ours if ours[k] != reference[k]} == {key}
    single = stages["single"].module
    assert {k for k in single if single[k] != stages["summed"].module[k]} == {"train_views", "test_views"}
    retrieval = [stages[name].data for name in ("global", "search", "whitened", "histogram")]
    assert all(data == retrieval[0] for data in retrieval)
    assert math.isclose(sum(i * i for i in range(1, 3)), stages["search"].module["query_views"])


def test_the_untrained_network_is_the_same_but_for_its_weights(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=off_the_shelf", "scale=mini", seed=7).stages
    ours, control = stages["backbone"].module, stages["random_backbone"].module
    assert {key for key in control if control[key] != ours.get(key)} == {"_target_", "network", "weight_seed"}
    assert control["network"] == {**ours["network"], "pretrained": False}
    assert control["weight_seed"] == 7
    assert stages["untrained"].module == stages["cnn"].module
    assert stages["untrained"].needs == {"backbone": "random_backbone"}
    assert stages["untrained"].data == stages["cnn"].data


@pytest.mark.parametrize("variant", ["default", "garments", "cifar10"])
def test_classes_and_attributes_fit_the_images(make_plan: Callable[..., Plan], variant: str) -> None:
    chosen = [] if variant == "default" else [f"variant={variant}"]
    stages = make_plan("paper=off_the_shelf", "scale=mini", *chosen).stages
    count = 3 if variant == "default" else 10
    assert {stages[name].module["classes"] for name in ("cnn_100", "untrained_1000", "svm", "summed")} == {count}
    rows = stages["attributes"].data["attributes"]
    assert len(rows) == count
    assert {len(row) for row in rows} == {len(stages["attributes"].data["names"])}
    assert stages["attributes_hog"].module["classes"] == len(rows[0])


def test_classification_of_the_cifar10_variant_is_on_cifar10(make_plan: Callable[..., Plan]) -> None:
    this = make_plan("paper=off_the_shelf", "scale=mini", "variant=cifar10")
    sources = {name: stage.data["source"]["_target_"].rsplit(".")[-1] for name, stage in this.stages.items()}
    collections = {n for n, stage in this.stages.items() if stage.data["_target_"].endswith(".ArrayCollection")}
    assert {sources[name] for name in collections} == {"CIFAR10"}
    judged = {s for claim in claims.read(this.config).claims for s in claims.stages_of(claim, list(this.stages))}
    assert judged <= collections
    assert {"aug", "single", "summed", "cnn_100", "hog_100", "pixels_1000"} <= judged


def test_published_numbers_are_those_of_tables_1_to_7() -> None:
    rows = compose.paper_file("off_the_shelf")["published"]
    published = {(f"{row['stage']}/{row['metric']}", row["value"]) for row in rows}
    recognition = {"": ("map", 73.9, 77.2), "mit_": ("acc", 58.4, 69.0), "birds_": ("acc", 53.3, 61.8)}
    recognition |= {"flowers_": ("acc", 74.7, 86.8), "uiuc_": ("mauc", 89.0, 91.5), "h3d_": ("map", 70.8, 73.0)}
    expected = {(f"{prefix}svm/test/{metric}", one) for prefix, (metric, one, _) in recognition.items()}
    expected |= {(f"{prefix}aug/test/{metric}", many) for prefix, (metric, _, many) in recognition.items()}
    expected |= {("uiuc_svm/test/mauc", 91.7), ("uiuc_aug/test/mauc", 93.7)}  # within a category

    retrieval = {"": (32.2, 55.6, 68.0), "paris_": (49.5, 69.7, 79.5), "sculptures_": (24.1, 31.1, 42.3)}
    retrieval |= {"holidays_": (64.2, 76.9, 84.3), "ukbench_": (76.0, 86.9, 91.1)}
    for prefix, values in retrieval.items():
        metric = "recall4" if prefix == "ukbench_" else "map"
        names = ("global", "search", "whitened")
        expected |= {(f"{prefix}{n}/test/{metric}", value) for n, value in zip(names, values, strict=True)}
    assert published == expected
    assert {row["scale"] for row in rows} == {"full"}
