"""The published recipe, and what the arms have in common."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from experiments.config import claims, compose
from experiments.running import training
from experiments.running.plan import Plan, plan
from modules.common.schedules import Position
from tests.papers.napa_vq.helpers import build_module


def settle(*lines: str) -> Plan:
    return plan(compose.compose(compose.request(["paper=napa_vq", "scale=full", *lines]).overrides), 0)


@pytest.fixture(scope="module")
def full() -> Plan:
    return settle()


def test_tasks_augmentation_and_optimisers(full: Plan) -> None:
    """CIFAR-100 in 50 + 5 x 10 classes in the order of seed 1993, 100 epochs a task, batches of 64 before rotation."""
    start, last = full.stages["na_0"], full.stages["napa"]
    for stage in (start, full.stages["napa_3"], last):
        assert stage.data["tasks"] == stage.module["tasks"] == [50, 10, 10, 10, 10, 10]
        assert (stage.data["order_seed"], stage.trainer["max_epochs"]) == (1993, 100)
        crop, flip, brightness = (training.build(operation) for operation in stage.data["source"]["augment"])
        assert (type(crop).__name__, crop.padding) == ("RandomCrop", 4)
        assert (type(flip).__name__, flip.p) == ("HorizontalFlip", 0.5)
        assert brightness.amount == pytest.approx(63 / 255, abs=1e-3)
        adam = training.build(stage.module["optimizer"])([torch.nn.Parameter(torch.zeros(1))])
        vectors = training.build(stage.module["vectors"]).optimizer([torch.nn.Parameter(torch.zeros(1))])
        assert isinstance(adam, torch.optim.Adam)
        assert isinstance(vectors, torch.optim.SGD)
        assert adam.defaults["weight_decay"] == 2e-4
        assert (vectors.defaults["momentum"], vectors.defaults["weight_decay"]) == (0, 0)
        losses = training.build(stage.module["losses"])
        assert (losses.na, losses.kd, losses.neighbours) == (1, 10, 15)
        assert losses.prototypes == ("neighbours" if stage is not start else "none")
    assert (start.module["vectors"]["features"], start.module["network"]["stem"]) == (512, "cifar")
    assert last.module["inference"] == "cosine"
    without = training.build(full.stages["isolated_3"].module["losses"])
    assert (without.neighbours, without.prototypes, without.na, without.kd) == (1, "neighbours", 1, 10)


@pytest.mark.parametrize(
    ("variant", "average", "last"),
    [(None, 70.44, None), ("steps_10", 69.04, 58.0), ("steps_20", None, None), ("tiny_imagenet", None, None)],
)
def test_published_rows(variant: str | None, average: float | None, last: float | None) -> None:
    """Numbers from memory are none: 67.42 in 20 steps, and TinyImageNet's."""
    config = settle(*([f"variant={variant}"] if variant else [])).config
    rows = {f"{row.stage}/{row.metric}": row.value for row in claims.published(config)}
    assert rows.get("napa/test/avg_incremental_acc") == average
    assert rows.get("napa/test/top1") == last


def test_published_recipe(full: Plan) -> None:
    stages = full.stages
    start, last = stages["na_0"], stages["napa"]
    assert start.data["batch_size"] == start.reference_batch == last.reference_batch == 64
    assert (start.module["optimizer"]["lr"], last.module["optimizer"]["lr"]) == (1e-3, 1e-4)
    assert [stage.module["vectors"]["optimizer"]["lr"] for stage in (start, last)] == [5.0, 0.5]
    assert last.module["losses"]["kd"] == 10
    assert stages["finetune"].module["losses"]["kd"] == 0
    made = {k: training.build(last.module[k]) for k in ("schedule", "vectors")}
    module = build_module(**made)
    rates = [module.factors(Position(epoch, 0, 79, 100)) for epoch in (0, 19, 20, 44, 45, 80, 90)]
    step = [(epoch // 45, epoch // 20) for epoch in (0, 19, 20, 44, 45, 80, 90)]
    assert rates == [pytest.approx([0.1**a, 0.1**b]) for a, b in step]


def test_photos_begin_with_sgd(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("scale=full", "paper=napa_vq", "variant=imagenet_subset").stages
    for name in ("plain_0", "na_0"):
        module, epochs = stages[name].module, stages[name].trainer["max_epochs"]
        made = {key: training.build(module[key]) for key in ("optimizer", "schedule", "vectors")}
        start = build_module(**made)
        sgd = start.configure_optimizers()[0]
        assert isinstance(sgd, torch.optim.SGD)
        (group,) = sgd.param_groups
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 5e-4)
        rates = [start.factors(Position(epoch, 0, 1, epochs)) for epoch in range(epochs)]
        falls = [sum(epoch >= at for at in (80, 120, 150)) for epoch in range(160)]
        assert rates == [pytest.approx([0.1**n, 0.1 ** (epoch // 20)]) for epoch, n in enumerate(falls)]
    assert stages["napa"].module["optimizer"]["_target_"] == "torch.optim.Adam"
    assert stages["napa"].trainer["max_epochs"] == 100
    assert stages["na_0"].module["network"]["stem"] == "imagenet"


@pytest.mark.parametrize(
    ("variant", "seen"),
    [(None, range(50, 101, 10)), ("steps_10", range(50, 101, 5)), ("steps_20", range(40, 101, 3))],
)
def test_every_arm_is_one_chain_over_all_tasks(
    variant: str | None, seen: range, make_plan: Callable[..., Plan]
) -> None:
    stages = make_plan("scale=full", "paper=napa_vq", *([f"variant={variant}"] if variant else [])).stages
    starts = ["na_0", *(f"napa_{task}" for task in range(1, len(seen) - 1))]
    for arm in ("finetune", "distill", "gaussian", "na", "napa", "matched", "isolated"):
        walked, name = [stages[arm]], arm
        while "previous" in stages[name].needs:
            name = stages[name].needs["previous"]  # type: ignore[assignment]
            walked.append(stages[name])
        first = {"na": "na_0", "napa": "na_0", "matched": "na_0", "isolated": "isolated_0"}
        assert name == first.get(arm, "plain_0")
        assert [stage.data["task"] for stage in reversed(walked)] == list(range(len(seen)))
        assert all(stage.data["tasks"] == stage.module["tasks"] for stage in walked)
        assert list(itertools.accumulate(walked[0].data["tasks"])) == list(seen)
        later = [{k: v for k, v in stage.module.items()} for stage in walked[:-1]]
        assert all(module == later[0] for module in later)
        assert [stage.start_like for stage in reversed(walked)] == [*starts, "napa"]


def test_arms_start_from_the_same_weights(make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task's coding vectors are those of the other arms, and the network of task 0; other tasks, other vectors."""
    plan = make_plan("paper=napa_vq")
    monkeypatch.setattr(training, "load", lambda plan, name: training.construct(plan, plan.stages[name]))  # untrained
    plain, na = (training.construct(plan, plan.stages[name]) for name in ("plain_0", "na_0"))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), na.parameters(), strict=True))

    vectors: list[Any] = [na.new_vectors]
    for ending in ("_1", "_2", ""):
        arms = [training.construct(plan, plan.stages[f"{arm}{ending}"]) for arm in ("napa", "gaussian", "finetune")]
        assert all(torch.equal(arm.new_vectors, arms[0].new_vectors) for arm in arms)
        vectors.append(arms[0].new_vectors)
    assert len({float(v[0, 0].detach()) for v in vectors}) == 4

    other = make_plan("paper=napa_vq", seed=1)
    assert not torch.equal(na.new_vectors, training.construct(other, other.stages["na_0"]).new_vectors)
