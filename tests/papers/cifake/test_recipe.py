"""What is published stands in the full recipe; nobody but the winner sees the test pictures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.running.plan import Plan
from modules.cifake.networks import DEPTHS, FILTERS, UNITS


def test_the_grid_is_the_papers(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=cifake", "scale=full").stages
    extractors = {name: stage for name, stage in stages.items() if name.startswith("conv_")}
    heads = {name: stage for name, stage in stages.items() if name.startswith("head_")}
    found = {(s.module["topology"]["filters"], s.module["topology"]["convolutions"]) for s in extractors.values()}
    assert found == {(f, n) for f in FILTERS for n in DEPTHS}
    assert {(s.module["units"], s.module["dense"]) for s in heads.values()} == {(u, n) for u in UNITS for n in DEPTHS}
    assert len(extractors) + len(heads) == 36
    assert set(stages["winner"].needs["candidates"]) == {*extractors, *heads}
    assert len(stages["winner"].needs["candidates"]) == 36
    for stage in heads.values():
        assert set(stage.needs["candidates"]) == set(extractors)
    for stage in (*extractors.values(), *heads.values(), stages["winner"]):
        assert stage.module["optimizer"] == {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-3}
        assert stage.data["batch_size"] == 64
        assert stage.data.get("augment", []) == []
        assert stage.trainer["max_epochs"] == 30


@pytest.mark.parametrize("scale", ["full", "mini"])
def test_the_test_pictures_are_seen_by_the_winner_alone(scale: str, make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=cifake", f"scale={scale}").stages
    for name, stage in stages.items():
        assert stage.test == (not name.startswith(("conv_", "head_")))
    candidates = stages["winner"].needs["candidates"]
    assert set(candidates) == {name for name in stages if name.startswith(("conv_", "head_"))}


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
            assert stage.data["jpeg"] == 75, name
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
