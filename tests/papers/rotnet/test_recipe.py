"""The recipes: published rates, what variants claim, and what the arms of a comparison share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from datamodules.common.subsets import Subset
from datamodules.common.torchvision_sets import FashionMNIST
from experiments.config import claims, compose, expressions
from experiments.running import training
from experiments.running.plan import Plan, plan
from modules.common.schedules import Position


def settle(*lines: str) -> Plan:
    return plan(compose.compose(compose.request(["paper=rotnet", "scale=full", *lines]).overrides), 0)


@pytest.fixture(scope="module")
def full() -> Plan:
    return settle()


@pytest.fixture(scope="module")
def imagenet() -> Plan:
    return settle("variant=imagenet")


def test_batches_augmentation_and_networks_of_the_full_recipe(full: Plan) -> None:
    """128 images, four copies of each; crops of 4 padded pixels and mirrors, before the rotation."""
    stages = full.stages
    for name in ("rotnet", "probe", "conv", "supervised", "conv_20", "supervised_1000"):
        stage = stages[name]
        source = stage.data.get("source") or stage.data
        assert (stage.data["batch_size"], source["val_size"]) == (128, 0)
        crop, flip = (training.build(operation) for operation in source["augment"])
        assert (type(crop).__name__, crop.padding) == ("RandomCrop", 4)
        assert (type(flip).__name__, flip.p) == ("HorizontalFlip", 0.5)
    assert stages["rotnet"].module["angles"] == [0, 90, 180, 270]
    assert stages["rotnet_180"].module["angles"] == [0, 180]
    network = stages["untrained"].module["network"]
    assert (network["blocks"], network["widths"]) == (4, [192, 160, 96, 192])
    labels = {n: stages[f"conv_{n}"].data["per_class"] for n in (20, 100, 400, 1000)}
    assert labels == {n: n for n in labels}
    assert not any(stages[name].module.get("tuned", False) for name in ("probe", "conv", "conv_1000", "probe_random"))
    assert all(stages[name].module["tuned"] for name in ("probe_tuned", "conv_tuned", "supervised"))


def rows(settled: Plan) -> dict[str, set[float]]:
    by_metric: dict[str, set[float]] = {}
    for row in claims.published(settled.config):
        by_metric.setdefault(f"{row.stage}/{row.metric}", set()).add(row.value)
    return by_metric


def test_published_rows(full: Plan, imagenet: Plan) -> None:
    """The paper's numbers as issue 6 and 10 of the released code quote them, and those of users who ran it."""
    cifar = rows(full)
    paper, rerun = [85.07, 89.06, 86.21, 61.73], [84.65, 88.89, 85.88, 54.04]
    for block, values in enumerate(zip(paper, rerun, strict=True), 1):
        assert cifar[f"probe/test/block{block}_top1"] == set(values)
    assert cifar["rotnet/test/rotation_top1"] == {93.65}
    photos = rows(imagenet)
    assert photos["conv/test/block4_top1"] == {50.0, 52.92}
    assert photos["conv/test/block5_top1"] == {43.8, 46.06}
    assert photos["supervised/test/top1"] == {59.7, 59.48}
    assert photos["rotnet/test/rotation_top1"] == {89.0}


def test_learning_rates_of_the_full_recipe(full: Plan) -> None:
    stages = full.stages

    def rates(name: str) -> list[float]:
        stage = stages[name]
        schedule = training.build(stage.module["schedule"])
        lr, epochs = stage.module["optimizer"]["lr"], stage.trainer["max_epochs"]
        return [lr * schedule(Position(epoch, 390, 391, epochs)) for epoch in range(epochs)]

    drops = [0.1, 0.02, 0.004, 0.0008]

    def expected(*counts: int) -> list[float]:
        return [rate for rate, count in zip(drops, counts, strict=True) for _ in range(count)]

    for name in ("rotnet", "rotnet_180", "supervised", "supervised_20"):
        assert rates(name) == pytest.approx(expected(60, 60, 40, 40))
    assert rates("probe") == rates("probe_random") == pytest.approx(expected(20, 20, 5, 55))
    assert rates("conv") == rates("conv_1000") == pytest.approx(expected(35, 35, 15, 15))
    assert {stage.reference_batch for stage in stages.values() if "optimizer" in stage.module} == {128}
    optimizers = [stage.module["optimizer"] for stage in stages.values() if "optimizer" in stage.module]
    assert all((o["momentum"], o["nesterov"], o["weight_decay"]) == (0.9, True, 5e-4) for o in optimizers)


def test_learning_rates_on_imagenet(imagenet: Plan) -> None:
    stages = imagenet.stages
    drops = {"rotnet": 0.1, "supervised": 0.1, "probe": 0.2, "probe_random": 0.2, "conv": 0.2, "conv_random": 0.2}
    backbone = (15, 30, 45, 50)
    ends = {"rotnet": backbone, "supervised": backbone, "probe": (5, 15, 25, 35), "conv": (10, 20, 30, 40)}
    for name, drop in drops.items():
        stage = stages[name]
        schedule = training.build(stage.module["schedule"])
        last = stage.trainer["max_epochs"]
        rates = [0.01 * schedule(Position(epoch, 0, 6673, last)) for epoch in range(last)]
        bounds = ends[name.removesuffix("_random")]
        starts = (0, *bounds[:-1])
        expected = [0.01 * drop**i for i, (a, b) in enumerate(zip(starts, bounds, strict=True)) for _ in range(a, b)]
        assert rates == pytest.approx(expected)
        assert stage.module["optimizer"]["lr"] == 0.01
        assert (stage.reference_batch, stage.data["batch_size"]) == (192, 192)


def test_variants_claim_what_they_train(make_plan: Callable[..., Plan]) -> None:
    def sides(variant: str, word: str) -> list[tuple[str, str | float]]:
        config = make_plan("paper=rotnet", "scale=full", f"variant={variant}").config
        return [(claim.better, claim.than) for claim in claims.read(config).claims if word in claim.name]

    four, two = "probe/test/block2_top1", "probe_180/test/block2_top1"
    assert sides("rotations_8", "are predicted") == [(four, two)]
    assert sides("rotations_90_270", "are predicted") == [(two, four)]
    for blocks in (3, 5):
        assert sides(f"blocks_{blocks}", "last block") == [(four, f"probe/test/block{blocks}_top1")]


@pytest.mark.parametrize(
    ("variant", "angles"), [("default", 4), ("rotations_90_270", 2), ("rotations_8", 8), ("imagenet", 4)]
)
def test_claims_require_rotations_told_apart_better_than_by_chance(
    variant: str, angles: int, make_plan: Callable[..., Plan]
) -> None:
    plan = make_plan("paper=rotnet", "scale=full", *([f"variant={variant}"] if variant != "default" else []))
    assert len(plan.stages["rotnet"].module["angles"]) == angles
    for claim in claims.read(plan.config).claims:
        (left, sign, right) = expressions.comparison(claim.requires[0], claim.name)
        assert (str(left), sign) == ("rotnet/test/rotation_top1", ">")
        assert isinstance(right, float)
        assert right >= 100 / angles


def test_twenty_labels_a_class_are_drawn_equally_often(full: Plan) -> None:
    data = full.stages["conv_20"].data
    assert (data["per_class"], data["draws"]) == (20, 50_000)
    assert (data["source"]["train_size"], data["source"]["val_size"]) == (None, 0)
    source = FashionMNIST(128, train_size=3000, val_size=0)
    subset = Subset(source, data["batch_size"], per_class=20, draws=data["draws"])
    subset.setup()
    images_, labels = subset.splits["train"]
    assert labels.bincount().tolist() == [20] * 10
    for label in range(10):
        everything = source.splits["train"][0][source.splits["train"][1] == label]
        assert torch.equal(images_[labels == label], everything[:20])
    shares = torch.cat([share.indices for share in subset.train_dataloader().batches])
    assert len(shares) == 50_000
    assert shares.bincount().tolist() == [250] * 200


def test_arms_of_a_seed_share_data_and_schedule(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=rotnet", "scale=mini", seed=3).stages
    arms = (
        ("probe", "probe_random", "probe_180", "probe_tuned"),
        ("conv", "conv_random", "conv_tuned", "supervised"),
        ("conv_20", "supervised_20"),
        ("conv_100", "supervised_100"),
        ("rotnet", "rotnet_180"),
    )
    for first, *others in [[stages[name] for name in names] for names in arms]:
        for second in others:
            assert first.data == second.data
            assert first.trainer == second.trainer
            optimizers = [{**stage.module["optimizer"], "lr": None} for stage in (first, second)]
            assert optimizers[0] == optimizers[1]
            assert first.module["schedule"] == second.module["schedule"]
    rates = {name: stage.module["optimizer"]["lr"] for name, stage in stages.items() if "optimizer" in stage.module}
    assert {name for name, rate in rates.items() if rate != 0.1} == {"conv", "conv_random"}  # their best: 0.3
    few, more = stages["conv_20"], stages["conv_100"]  # as many updates, whatever the number of labels
    assert few.trainer == more.trainer
    assert few.data | {"per_class": 100} == more.data
    assert stages["rotnet"].needs == stages["random"].needs == stages["rotnet_180"].needs == {"start": "untrained"}


def test_labelled_images_are_among_those_that_rotations_are_learnt_on(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=rotnet", "scale=mini", seed=3).stages
    seen: dict[str, dict[str, set[bytes]]] = {}
    for name in ("rotnet", "conv_20", "conv_100", "conv"):
        data = training.build(stages[name].data)
        data.setup()
        seen[name] = {split: {bytes(image.numpy()) for image in data.splits[split][0]} for split in ("train", "test")}
    assert seen["conv_20"]["train"] < seen["conv_100"]["train"] < seen["conv"]["train"] < seen["rotnet"]["train"]
    assert len(seen["conv_100"]["train"]) == 1000
    for splits in seen.values():
        assert splits["test"] == seen["rotnet"]["test"]
        assert not splits["test"] & seen["rotnet"]["train"]


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_arms_of_a_seed_share_initial_weights(
    scale: str, make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "load", lambda plan, name: training.construct(plan, plan.stages[name]))

    plans = {seed: make_plan("paper=rotnet", f"scale={scale}", seed=seed) for seed in (3, 4)}

    def start(name: str, seed: int = 3) -> Any:
        return training.construct(plans[seed], plans[seed].stages[name])

    def weights(module: nn.Module) -> Tensor:
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    first = start("conv")
    assert not torch.equal(weights(first.heads), weights(start("conv", seed=4).heads))
    for name in ("conv_random", "conv_tuned", "conv_20", "conv_100", *(["conv_1000"] if scale == "full" else [])):
        assert torch.equal(weights(start(name).heads), weights(first.heads))
    assert torch.equal(weights(start("supervised").heads), weights(start("supervised_20").heads))
    probe = start("probe")
    for name in ("probe_random", "probe_180"):
        assert torch.equal(weights(start(name).heads), weights(probe.heads))
    assert torch.equal(weights(start("probe_tuned").heads), weights(probe.heads["block2"]))
    for name in ("rotnet", "rotnet_180", "random"):
        assert torch.equal(weights(start(name).trunk), weights(start("untrained").trunk))
