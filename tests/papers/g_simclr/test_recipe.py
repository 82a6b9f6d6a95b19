"""What the released notebooks say, and what the recipe says; which arm each published number belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from experiments.config import claims, compose
from experiments.running import training
from experiments.running.plan import Plan, plan
from modules.common.schedules import Position
from modules.g_simclr.probe import FineTuned


def full(*lines: str) -> Plan:
    return plan(compose.compose(compose.request(["paper=g_simclr", "scale=full", *lines]).overrides), 0)


@pytest.fixture(scope="module")
def cifar() -> Plan:
    return full()


@pytest.fixture(scope="module")
def photos() -> Plan:
    return full("variant=imagenet")


def operations(stage: Any) -> list[tuple[str, dict[str, Any]]]:
    """Name and numbers of each operation of a stage's augmentation; all of them toss their coins once a batch."""
    augment = stage.data["augment"]
    assert all(item["_target_"].endswith(".Batchwise") for item in augment)
    inner = [dict(item["operation"]) for item in augment]
    return [(item.pop("_target_").rpartition(".")[2], item) for item in inner]


def test_autoencoder_and_clusters(cifar: Plan, photos: Plan) -> None:
    for setting, rate, patience in ((cifar, 1e-3, 2), (photos, 1e-4, 5)):
        stage = setting.stages["autoencoder"]
        assert stage.module["optimizer"]["_target_"] == "torch.optim.Adam"
        assert (stage.module["optimizer"]["lr"], stage.module["patience"]) == (rate, patience)
        assert (stage.data["batch_size"], stage.trainer["max_epochs"], stage.module["noise"]) == (64, 100, 0.01)
        assert setting.stages["clusters"].module["clusters"] == 64
    assert cifar.stages["autoencoder"].module["network"]["filters"] == [32, 64, 128]
    deep = photos.stages["autoencoder"].module["network"]
    assert (deep["filters"], deep["kernel"]) == ([64, 128, 256, 512, 1024], 5)


def test_pretraining(cifar: Plan, photos: Plan) -> None:
    for setting, epochs in ((cifar, 15), (photos, 200)):
        for name in ("simclr_random", "simclr_fixed", "simclr_rank_order", "simclr_strict"):
            stage = setting.stages[name]
            optimizer = training.build(stage.module["optimizer"])([torch.zeros(1, requires_grad=True)])
            (group,) = optimizer.param_groups
            assert isinstance(optimizer, torch.optim.SGD)
            assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0, 0)
            assert (stage.data["batch_size"], stage.trainer["max_epochs"]) == (64, epochs)
            assert (stage.module["temperature"], stage.module["head"]) == (0.1, [256, 128, 50])
            assert stage.module["views_apart"]  # batch statistics of each view
    rate = training.build(cifar.stages["simclr_fixed"].module["schedule"])
    at = [Position(step // 781, step % 781, 781, 15) for step in (0, 500, 999, 1000, 2000, 3000)]
    assert [rate(position) for position in at] == pytest.approx([1, 0.5, 0, 1, 0.5, 1], abs=1e-5)
    rate = training.build(photos.stages["simclr_rank_order"].module["schedule"])
    at = [Position(step // 19, step % 19, 19, 200) for step in (0, 500, 1000, 3799)]
    assert [rate(position) for position in at] == pytest.approx([1, 0.5, 0, 0])


def test_augmentation(cifar: Plan, photos: Plan) -> None:
    """Neither crop nor blur; the colour drop of CIFAR-10 returns what it is given."""
    assert operations(cifar.stages["simclr_fixed"]) == [
        ("HorizontalFlip", {"p": 0.5}),
        ("AdditiveJitter", {"strength": 0.2, "p": 0.5}),
    ]
    assert operations(photos.stages["simclr_rank_order"]) == [
        ("HorizontalFlip", {"p": 0.5}),
        ("AdditiveJitter", {"strength": 1.0, "p": 0.8}),
        ("RandomGrey", {"p": 0.2}),
    ]


def test_orders(cifar: Plan) -> None:
    sampling = {n: s.data["sampling"] for n, s in cifar.stages.items() if n.startswith("simclr_")}
    orders = {name: (each["sampler"], each["reshuffle"]) for name, each in sampling.items()}
    assert orders["simclr_fixed"] == ("random", False)
    assert orders["simclr_rank_order"] == ("rank_order", False)
    assert orders["simclr_random"] == ("random", True)
    assert orders["simclr_strict"] == ("strict", True)


def test_probes_and_fine_tuning(cifar: Plan, photos: Plan) -> None:
    for setting, labels in ((cifar, 5000), (photos, 125)):
        probe = setting.stages["probe_rank_order"]
        assert (probe.module["optimizer"]["lr"], probe.module["patience"]) == (1e-3, 2)
        assert (probe.data["batch_size"], probe.trainer["max_epochs"], probe.data["augment"]) == (64, 100, [])
        for name, rate in (("labelled_random", 1e-3), ("tuned_random", 1e-5)):
            stage = setting.stages[name]
            assert (stage.module["optimizer"]["lr"], stage.module["patience"]) == (rate, 2)
            assert (stage.data["batch_size"], stage.trainer["max_epochs"]) == (64, 35)
            assert stage.data["per_class"] * stage.module["classes"] == labels


def test_supervised_network(cifar: Plan, photos: Plan) -> None:
    """574,090 numbers: the released 575,114 less the batch norm of 256 channels before the pooling."""
    stage = cifar.stages["supervised"]
    assert (stage.module["optimizer"]["lr"], stage.data["batch_size"], stage.trainer["max_epochs"]) == (1e-3, 64, 75)
    source = training.construct(cifar, cifar.stages["untrained"])
    network = FineTuned(source, 10, encoder=training.build(stage.module["encoder"])).network
    statistics = [b for name, b in network.named_buffers() if name.endswith(("mean", "var"))]
    assert sum(t.numel() for t in [*network.parameters(), *statistics]) == 575_114 - 4 * 256
    assert photos.stages["supervised"].trainer["max_epochs"] == 200
    assert photos.stages["supervised"].module["encoder"] is None


def published(setting: Plan) -> dict[str, set[float]]:
    rows: dict[str, set[float]] = {}
    for row in claims.published(setting.config):
        rows.setdefault(f"{row.stage}/{row.metric}", set()).add(row.value)
    return rows


def test_published_numbers_belong_to_the_batches_they_came_from(cifar: Plan, photos: Plan) -> None:
    rows = published(cifar)
    assert rows["probe_fixed/test/p3_top1"] == {39.92, 39.22}
    assert rows["probe_rank_order/test/p3_top1"] == {40.50, 39.23}
    assert rows["probe_fixed/test/p2_top1"] == {39.40, 39.12}
    assert rows["probe_rank_order/test/p2_top1"] == {41.01, 40.61}
    assert rows["supervised/test/top1"] == {75.88, 74.10}
    assert (rows["tuned_fixed/test/top1"], rows["tuned_rank_order/test/top1"]) == ({42.21}, {43.10})
    nobody_published = ("probe_random", "probe_strict", "tuned_random", "tuned_strict")
    assert not [name for name in rows if name.startswith(nobody_published)]
    rows = published(photos)
    assert rows["probe_random/test/p3_top1"] == {52.4}
    assert rows["probe_rank_order/test/p3_top1"] == {60.0}
    assert (rows["tuned_random/test/top1"], rows["tuned_rank_order/test/top1"]) == ({49.2}, {56.0})


@pytest.mark.parametrize(
    ("variant", "than", "difference"),
    [(None, "probe_fixed", 0.58), ("imagenet", "probe_random", 7.6), ("imagenet_shallow", "probe_random", -1.2)],
)
def test_published_differences_are_of_the_released_order(variant: str | None, than: str, difference: float) -> None:
    said = [c for c in claims.read(full(*([f"variant={variant}"] if variant else [])).config).claims if c.published]
    assert [(c.better, c.than, c.published["difference"]) for c in said if c.published] == [
        ("probe_rank_order/test/p3_top1", f"{than}/test/p3_top1", difference)
    ]


def test_batches_of_mini_have_an_image_for_each_cluster(make_plan: Callable[..., Plan]) -> None:
    """All arms see the same 6,000 images, which the probes' validation and test images are not among."""
    stages = make_plan("paper=g_simclr", "scale=mini").stages
    pretrained = [stage for name, stage in stages.items() if name.startswith("simclr_")]
    assert {stage.data["batch_size"] for stage in pretrained} == {stages["clusters"].module["clusters"]} == {16}
    probe = stages["probe_strict"].data
    assert probe["source"] == stages["simclr_strict"].data["source"] == stages["clusters"].data["source"]
    assert (probe["source"]["train_size"], probe["source"]["val_size"]) == (6000, 6000)
    assert probe["also_tested"] == 0.8


def test_the_main_claim_needs_false_negatives_that_cost_something(make_plan: Callable[..., Plan]) -> None:
    config = make_plan("paper=g_simclr", "scale=mini").config
    main = claims.read(config).main
    assert main is not None
    assert [each.than for each in main.against().values()] == [
        "probe_random/test/p3_top1",
        "probe_reweighted/test/p3_top1",
    ]
    assert f"probe_masked/test/p3_top1 > probe_random/test/p3_top1 + {main.worth}" in main.requires
    assert "simclr_strict/train/same_class < 0.9 * simclr_random/train/same_class" in main.requires
    assert {f"stages.{arm.replace('probe', 'simclr')}.module.optimizer.lr" for arm in config["tune"]["arms"]} == set(
        config["tune"]["keys"]
    )
