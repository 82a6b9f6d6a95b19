"""The published recipe, and what the arms have in common."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from experiments.running import training
from experiments.running.plan import Plan
from tests.papers.transhp.helpers import LEVELS, WEIGHTS


def test_the_full_recipe_is_the_released_one(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=transhp", "scale=full").stages
    method = stages["transhp"]
    assert [tuple(level) for level in method.module["network"]["levels"]] == LEVELS
    assert method.module["weights"] == WEIGHTS
    assert method.module["label_smoothing"] == 0.1
    assert method.trainer["max_epochs"] == 300
    assert method.data["batch_size"] == method.reference_batch == 1024
    assert method.module["optimizer"]["lr"] == 1e-3
    assert method.module["optimizer"]["weight_decay"] == 0.05
    source = method.data["source"]
    assert (source["auto_augment"], source["erasing"], source["repeats"]) == ("rand-m9-mstd0.5-inc1", 0.25, 3)
    assert stages["no_coarse"].module["weights"] == [0] * len(LEVELS)
    assert (method.module["network"]["drop_path"], source["interpolation"]) == (0.1, "bicubic")
    assert method.module["schedule"] == {
        "_target_": "modules.transhp.schedules.deit_cosine",
        "_partial_": True,
        **{"base": 1e-3, "final": 1e-5, "warmup": 1e-6, "warmup_epochs": 5},
    }
    assert stages["transhp_few"].data["source"]["fraction"] == 0.1
    cifar = make_plan("paper=transhp", "scale=full", "variant=cifar100").stages["transhp"]
    assert cifar.module["network"]["levels"] == [[8, 20]]
    for block in (10, 9, 8, 6):
        late = make_plan("paper=transhp", "scale=full", f"variant=from_block_{block}").stages
        assert list(late) == ["transhp"]
        assert [tuple(level) for level in late["transhp"].module["network"]["levels"]] == LEVELS[block:]
        assert late["transhp"].module["weights"] == WEIGHTS[block:]


@pytest.mark.parametrize("scale", ["full", "mini"])
def test_all_arms_have_the_same_budget(scale: str, make_plan: Callable[..., Plan]) -> None:
    """Same data, epochs, optimiser and network, up to what makes the arm."""
    stages = make_plan("paper=transhp", f"scale={scale}").stages
    for few in ("", "_few"):
        arms = [
            stages[f"{name}{few}"]
            for name in ("transhp", "baseline", "no_coarse", "no_prompts")
            if f"{name}{few}" in stages
        ]
        for arm in arms[1:]:
            assert (arm.data, arm.trainer) == (arms[0].data, arms[0].trainer)
            assert {**arm.module, "weights": 0, "network": 0} == {**arms[0].module, "weights": 0, "network": 0}
            assert {**arm.module["network"], "coarse": 0} == {**arms[0].module["network"], "coarse": 0}


def test_arms_of_a_plan_start_alike(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=transhp")
    starts = {name: training.construct(plan, stage).state_dict() for name, stage in plan.stages.items()}
    plain = {name: value for name, value in starts["baseline"].items() if name.startswith("network.")}
    assert len(starts) == 6
    for start in starts.values():
        assert all(torch.equal(start[name], value) for name, value in plain.items())
    prompts = "network.blocks.3.prompts"
    assert torch.equal(starts["transhp"][prompts], starts["no_coarse"][prompts])

    other = make_plan("paper=transhp", seed=1)
    head = training.construct(other, other.stages["baseline"]).state_dict()["network.head.weight"]
    assert not torch.equal(head, plain["network.head.weight"])
