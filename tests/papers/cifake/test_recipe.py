"""What is published stands in the full recipe; there nobody but the winner sees the test pictures."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch

from experiments.config import claims, compose
from experiments.config.instantiate import build
from experiments.running.plan import Plan, plan


@pytest.fixture(scope="module")
def full() -> Plan:
    return plan(compose.compose(compose.request(["paper=cifake", "scale=full"]).overrides), 0)


def test_the_grid_is_the_papers(full: Plan) -> None:
    """12 extractors and 24 heads; the winner is chosen among all 36."""
    stages = full.stages
    extractors = {f"conv_{f}x{n}": (f, n) for f in (16, 32, 64, 128) for n in (1, 2, 3)}
    heads = {f"head_{u}x{n}": (u, n) for u in (32, 64, 128, 256, 512, 1024, 2048, 4096) for n in (1, 2, 3)}
    assert {name for name in stages if name.startswith(("conv_", "head_"))} == {*extractors, *heads}
    for name, size in extractors.items():
        topology = build(stages[name].module["topology"])
        assert (topology.filters, topology.convolutions, topology.units, topology.dense) == (*size, 0, 0)
    for name, size in heads.items():
        assert (stages[name].module["units"], stages[name].module["dense"]) == size
        assert set(stages[name].needs["candidates"]) == set(extractors)
    assert sorted(stages["winner"].needs["candidates"]) == sorted([*extractors, *heads])


def test_detectors_are_trained_as_the_recipe_says(full: Plan) -> None:
    """Adam 1e-3, batches of 64, at most 30 epochs, ended after 5 without a lower loss, no schedule, no augmentation."""
    for name, stage in full.stages.items():
        if name.startswith(("conv_", "head_", "winner", "shuffled")):
            optimizer = build(stage.module["optimizer"])([torch.nn.Parameter(torch.zeros(1))])
            assert type(optimizer) is torch.optim.Adam
            assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (1e-3, 0)
            assert stage.module.get("schedule") is None
            assert (stage.module["padding"], stage.module["patience"]) == ("same", 5)
            assert (stage.data["batch_size"], stage.trainer["max_epochs"]) == (64, 30)
            assert stage.data.get("augment", []) == []


def test_the_abstracts_number_is_the_winners(full: Plan) -> None:
    (row,) = full.config["published"]
    assert (row["stage"], row["metric"], row["value"], row["scale"]) == ("winner", "test/acc", 92.98, "full")


def test_the_test_pictures_are_seen_by_the_winner_alone(full: Plan) -> None:
    for name, stage in full.stages.items():
        assert stage.test == (not name.startswith(("conv_", "head_")))
    candidates = full.stages["winner"].needs["candidates"]
    assert set(candidates) == {name for name in full.stages if name.startswith(("conv_", "head_"))}


def test_the_claim_compares_every_pair_of_the_grids_corners(make_plan: Callable[..., Plan]) -> None:
    """They differ in topology and rate; the winner is one of them, and its dense head follows the same training."""
    for scale, filters in {"mini": (16, 32), "full": (16, 128)}.items():
        made = make_plan("paper=cifake", f"scale={scale}")
        corners = [f"conv_{f}x{n}" for f in filters for n in (1, 3)]
        main = claims.read(made.config).main
        assert main is not None
        sides = {frozenset(part.arms(made.stages)) for part in main.parts()}
        assert sides == {frozenset(pair) for pair in combinations(corners, 2)}
        assert {part.within for part in main.parts()} == {3}

    stages = make_plan("paper=cifake", "scale=mini").stages
    first, *others = (stages[name] for name in ("conv_16x1", "conv_16x3", "conv_32x1", "conv_32x3"))
    for stage in others:
        assert (stage.data, stage.trainer, stage.test) == (first.data, first.trainer, True)
        for module in (stage.module, first.module):
            assert module["optimizer"]["_target_"] == "torch.optim.Adam"
        rest = (
            {k: v for k, v in m.items() if k not in ("topology", "optimizer")} for m in (stage.module, first.module)
        )
        assert next(rest) == next(rest)
    winner, head = stages["winner"], stages["head_64x1"]
    assert winner.needs == head.needs
    assert (winner.data, winner.trainer) == (head.data, head.trainer)
    assert {**winner.module, "units": 64, "dense": 1} == head.module


def test_controls_differ_from_the_winner_in_their_data_alone(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=cifake", "scale=mini").stages
    winner = stages["winner"]
    for name, change in (("shuffled", {"shuffled": True}), ("reencoded", {"fakes": "reencoded"})):
        stage = stages[name]
        assert stage.module == winner.module
        assert stage.trainer == winner.trainer
        assert stage.needs == winner.needs
        assert stage.data == {**winner.data, **change}
    for name, stage in stages.items():
        if name != "autoencoder":
            assert (stage.data["jpeg"], stage.data["noise"]) == (75, stages["conv_16x1"].data["noise"]), name
    full = make_plan("paper=cifake", "scale=full").stages
    assert full["shuffled"].data == {**full["winner"].data, "shuffled": True}


@pytest.mark.parametrize(
    ("scale", "variant", "where", "value"),
    [
        ("full", "valid", ("module", "padding"), "valid"),
        ("full", "same_jpeg", ("data", "jpeg"), 75),
        ("mini", "small_valid", ("module", "padding"), "valid"),
        ("mini", "no_jpeg", ("data", "jpeg"), None),
    ],
)
def test_variants_reach_every_detector(
    scale: str, variant: str, where: tuple[str, str], value: object, make_plan: Callable[..., Plan]
) -> None:
    stages = make_plan("paper=cifake", f"scale={scale}", f"variant={variant}").stages
    for name, stage in stages.items():
        if name.startswith(("conv_", "head_", "winner", "shuffled", "reencoded")):
            part = {"module": stage.module, "data": stage.data}[where[0]]
            assert part[where[1]] == value, name
