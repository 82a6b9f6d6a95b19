"""What a dry run counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.running import dry, training
from experiments.running.counting import multiply_adds
from experiments.running.dry import DryRun, Measured, part_of_the_recipe
from experiments.running.manifest import silent
from experiments.running.plan import Plan, Stage
from modules.common.module import StageModule


class Attention(StageModule):
    """Queries, keys and values by one linear layer; two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, 8)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)  # (B, 2, N, 4) each
        return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("side", [4, 16])
def test_attention_on_cpus_is_counted(side: int) -> None:
    """Both products with N x N attention of two heads, beside the linear layer."""
    n = side * side
    expected = n * 8 * 24 + 2 * (2 * n * n * 4)
    for device in ("cpu", "meta"):
        network = Attention().to(device)
        assert multiply_adds(network, torch.zeros(1, 8, side, side, device=device)) == expected


def test_stages_that_a_recipe_neither_fits_nor_tests_are_built_only_for_others(make_plan: Callable[..., Plan]) -> None:
    this = make_plan("paper=vit_vqgan", "scale=full", "variant=celeba_hq")
    shortened = part_of_the_recipe(this)
    assert not this.stages["features"].fit
    assert not this.stages["features"].test
    assert "features" in shortened  # measures what others reconstruct
    assert {"vanilla", "vim_vanilla", "probe_vanilla", "gan_late"}.isdisjoint(shortened)


def test_stages_that_are_alike_take_their_steps_once(make_plan: Callable[..., Plan], monkeypatch: Any) -> None:
    """A copy whose images are others, or whose rate is, makes its batches and gets the first one's weights. One of
    another network, or whose batches are smaller, takes its own."""
    init = make_plan("paper=meal_v2").stages["init"]
    narrow = {**init.module, "network": {**init.module["network"], "widths": [4, 4]}}
    slow = {**init.module["optimizer"], "lr": 1e-5}
    copies = {
        "again": replace(init, name="again", data={**init.data, "seed": 3, "label_noise": 0.1}),
        "slow": replace(init, name="slow", module={**init.module, "optimizer": slow}),
        "narrow": replace(init, name="narrow", module=narrow),
        "few": replace(init, name="few", data={**init.data, "train_size": 3}),
    }
    this = make_plan("paper=meal_v2")
    stepped: list[str] = []
    served: list[str] = []
    built: dict[str, Any] = {}
    step, batches, construct = dry._step, dry._batches, training.construct_from

    def seen_step(stage: Stage, *others: Any) -> None:
        stepped.append(stage.name)
        step(stage, *others)

    def seen_batches(stage: Stage, *others: Any) -> str:
        served.append(stage.name)
        return batches(stage, *others)

    def seen(stage: Stage, partners: Any) -> Any:
        built[stage.name] = construct(stage, partners)
        return built[stage.name]

    monkeypatch.setattr(dry, "_step", seen_step)
    monkeypatch.setattr(dry, "_batches", seen_batches)
    monkeypatch.setattr(training, "construct_from", seen)
    stages = {"init": init, **copies}
    measured = DryRun(Plan(this.paper, this.scale, None, 0, stages, this.config)).run(silent)

    assert stepped == ["init", "narrow", "few"]
    assert served == ["init", "again", "slow", "few"]
    first, again, slow, other, few = (measured[name] for name in stages)
    assert isinstance(first, Measured)
    assert isinstance(other, Measured)
    assert isinstance(few, Measured)
    assert again == slow == first
    assert other.mult_adds < few.mult_adds == first.mult_adds
    states = {name: module.state_dict() for name, module in built.items()}
    assert all(torch.equal(value, states["again"][key]) for key, value in states["init"].items())
    assert not all(torch.equal(value, states["few"][key]) for key, value in states["init"].items())


@pytest.mark.parametrize("cut", [{}, {"network": {"dropout": 0.5}}])
def test_what_stands_for_trained_weights_is_timed_and_cuts_nothing(
    cut: dict[str, Any], make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module with `as_trained` is the one that is stepped, tested and timed, and its hours are a real run's; so is
    the whole one that is timed where a dry run steps with a module that is cut."""
    this = make_plan("paper=meal_v2")
    init = this.stages["init"]
    wide = init.module["network"]["widths"]
    stages = {"init": replace(init, dry={"as_trained": {"network": {"widths": [4, 4]}}, "module": cut})}
    built: list[Any] = []
    construct = training.construct_from

    def seen(stage: Stage, partners: Any) -> Any:
        built.append(stage.module["network"])
        return construct(stage, partners)

    monkeypatch.setattr(training, "construct_from", seen)
    run = DryRun(Plan(this.paper, this.scale, None, 0, stages, this.config), seconds=0.05, tests=True).run(silent)

    measured = run["init"]
    assert isinstance(measured, Measured)
    assert wide != [4, 4]
    assert all(list(network["widths"]) == [4, 4] for network in built)
    assert built[0]["dropout"] == (0.5 if cut else 0.0)
    assert built[-1]["dropout"] == 0.0
    assert measured.hours
    assert not measured.at_least
