"""The stages start alike, train alike, and the full recipe is Table 3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from experiments.running import training
from experiments.running.plan import Plan


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
    for scale in ("mini", "full"):
        stages = make_plan("paper=noprop", f"scale={scale}").stages
        if scale == "mini":
            stages = {**stages, **make_plan("paper=noprop", "variant=continuous").stages}
        for group in (("noprop", "backprop", "single", "greedy"), ("ct", "fm")):  # adjoint: 4 epochs, or equal seconds
            first, *others = (stages[name] for name in group)
            for other in others:
                assert (other.data, other.trainer) == (first.data, first.trainer)
                rates = [{k: stage.module["optimizer"][k] for k in ("lr", "weight_decay")} for stage in (first, other)]
                assert rates[0] == rates[1]


def test_full_recipe_is_table_3(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=noprop", "scale=full").stages
    expected = {"noprop": 150, "backprop": 150, "ct": 500, "fm": 500, "adjoint": 4}
    assert {name: stages[name].trainer["max_epochs"] for name in expected} == expected
    optimizers = {name: stages[name].module["optimizer"] for name in expected}
    assert all(o["lr"] == o["weight_decay"] == 1e-3 for o in optimizers.values())
    assert {n for n, o in optimizers.items() if o["_target_"] == "torch.optim.AdamW"} == {
        "noprop",
        "backprop",
        "adjoint",
    }
    assert all(stages[name].data["batch_size"] == 128 for name in expected)
    assert (stages["noprop"].module["eta"], stages["ct"].module["eta"]) == (0.1, 1.0)
    assert (stages["noprop"].module["blocks"], stages["ct"].module["steps"]) == (10, 1000)
    mnist = make_plan("paper=noprop", "scale=full", "variant=mnist").stages
    assert [mnist[n].trainer["max_epochs"] for n in expected] == [100, 100, 100, 100, 2]
    assert make_plan("paper=noprop", "scale=full", "variant=cifar100").stages["fm"].trainer["max_epochs"] == 1000
