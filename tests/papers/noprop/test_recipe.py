"""The stages start alike, train alike, and the full recipe is Table 3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from experiments.config import claims, compose
from experiments.config.instantiate import build
from experiments.running import training
from experiments.running.plan import Plan, plan


def test_arms_start_from_the_same_weights(make_plan: Callable[..., Plan]) -> None:
    arms: dict[str, Any] = {}
    for setting in ([], ["variant=continuous"]):
        plan = make_plan("paper=noprop", *setting)
        arms |= {name: training.construct(plan, stage) for name, stage in plan.stages.items()}

    def same(one: nn.Module, other: nn.Module) -> bool:
        pairs: Iterator[Any] = zip(one.parameters(), other.parameters(), strict=True)
        return all(torch.equal(p, q) for p, q in pairs)

    assert same(arms["noprop"].blocks, arms["backprop"].blocks)
    assert same(arms["noprop"].blocks[0], arms["single"].blocks[0])
    assert same(arms["noprop"].label, arms["backprop"].label)
    assert same(arms["ct"].network, arms["fm"].network)
    assert same(arms["ct"].network, arms["adjoint"].network)


def test_arms_of_a_comparison_train_alike(make_plan: Callable[..., Plan]) -> None:
    """In mini's discrete time each arm has the rate that was best for it, see `tune`; elsewhere all have one."""
    discrete = ("noprop", "backprop", "single", "greedy")
    flows = ("ct", "fm")  # adjoint: 4 epochs, or equal seconds
    full = make_plan("paper=noprop", "scale=full").stages
    mini = make_plan("paper=noprop").stages
    continuous = make_plan("paper=noprop", "variant=continuous").stages
    for stages, group, own_rates in (
        (full, discrete, False),
        (full, flows, False),
        (mini, discrete, True),
        (continuous, flows, False),
    ):
        first, *others = (stages[name] for name in group)
        for other in others:
            assert (other.data, other.trainer) == (first.data, first.trainer)
            decays = [stage.module["optimizer"]["weight_decay"] for stage in (first, other)]
            rates = [stage.module["optimizer"]["lr"] for stage in (first, other)]
            assert decays[0] == decays[1]
            assert own_rates or rates[0] == rates[1]


@pytest.fixture(scope="module")
def full() -> Plan:
    return plan(compose.compose(compose.request(["paper=noprop", "scale=full"]).overrides), 0)


def test_full_recipe_is_table_3(full: Plan, make_plan: Callable[..., Plan]) -> None:
    epochs = {"noprop": 150, "backprop": 150, "ct": 500, "fm": 500, "adjoint": 4}
    adamw = {"noprop", "backprop", "adjoint"}
    for name, count in epochs.items():
        stage = full.stages[name]
        assert stage.trainer["max_epochs"] == count
        assert stage.data["batch_size"] == stage.reference_batch == 128
        assert stage.data["val_size"] == 0
        assert stage.data.get("augment", []) == []
        assert stage.module.get("schedule") is None
        optimizer = build(stage.module["optimizer"])([torch.nn.Parameter(torch.zeros(1))])
        assert type(optimizer) is (torch.optim.AdamW if name in adamw else torch.optim.Adam)
        (group,) = optimizer.param_groups
        assert (group["lr"], group["weight_decay"]) == (1e-3, 1e-3)
        assert stage.module["inference_runs"] == 5
        network = stage.module["network"]
        assert (network["widths"], network["hidden"], network["size"]) == ([32, 64, 128], 256, 32)
    noprop, ct = full.stages["noprop"].module, full.stages["ct"].module
    assert (noprop["eta"], noprop["blocks"], ct["eta"], ct["steps"]) == (0.1, 10, 1.0, 1000)

    mnist = make_plan("paper=noprop", "scale=full", "variant=mnist").stages
    assert [mnist[n].trainer["max_epochs"] for n in epochs] == [100, 100, 100, 100, 2]
    cifar100 = make_plan("paper=noprop", "scale=full", "variant=cifar100").stages
    assert [cifar100[n].trainer["max_epochs"] for n in epochs] == [150, 150, 1000, 1000, 4]


def test_published_numbers_are_table_1(full: Plan) -> None:
    arms = ("noprop", "backprop", "ct", "fm", "adjoint")
    table = {
        "default": (79.25, 79.92, 73.35, 73.14, 66.78),
        "mnist": (99.47, 99.46, 97.84, 99.21, 98.62),
        "cifar100": (45.93, 45.85, 33.66, 6.38, 25.03),
        "dim20": (79.12, 79.3, 71.77, 73.5),
        "mnist_dim20": (99.49, 99.43, 97.7, 99.29),
        "cifar100_dim20": (45.19, 46.57, 33.99, 31.14),
        "prototype": (80.54, 79.58, 66.54, 75.18),
        "mnist_prototype": (99.54, 99.44, 97.17, 98.52),
        "cifar100_prototype": (46.06, 47.8, 21.31, 37.57),
    }
    rows: dict[tuple[str, str], float] = {}
    for row in full.config["published"]:
        assert row["metric"] == "test/top1"
        variants = [row["variant"]] if isinstance(row["variant"], str) else row["variant"]
        rows |= {(row["stage"], variant): row["value"] for variant in variants if variant in table}
    assert rows == {
        (arm, variant): value for variant, values in table.items() for arm, value in zip(arms, values, strict=False)
    }


def test_main_claim_is_in_the_papers_regime_and_has_its_rivals(make_plan: Callable[..., Plan]) -> None:
    """Parity with back-propagation, and a gain over what needs no chain; training accuracy is measured, not assumed."""
    for setting in ("scale=mini", "scale=full"):
        main = claims.read(make_plan("paper=noprop", setting).config).main
        assert main is not None
        parity, gain = main.all
        assert (parity.better, parity.than, parity.margin) == ("noprop/test/top1", "backprop/test/top1", -1)
        assert isinstance(gain.than, dict)
        assert list(gain.than.values()) == ["greedy/test/top1", "single/test/block1_top1"]
        assert len(main.preconditions()) == 2
        assert all("train_top1" in text for text in main.preconditions())


def test_mini_trains_until_it_is_sure(make_plan: Callable[..., Plan]) -> None:
    """Without dropout in each arm of the blocks; the paper's 0.2 stays at full scale and in continuous time."""
    mini = make_plan("paper=noprop").stages
    for name in ("untrained", "noprop", "backprop", "single"):
        assert mini[name].module["network"]["dropout"] == 0
    for stage in (
        *make_plan("paper=noprop", "scale=full").stages.values(),
        *make_plan("paper=noprop", "variant=continuous").stages.values(),
    ):
        if "network" in stage.module:
            assert stage.module["network"]["dropout"] == 0.2
