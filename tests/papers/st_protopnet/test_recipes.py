"""The recipes: published sizes and rates, and what the arms of a comparison share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from experiments.config import claims
from experiments.running import training
from experiments.running.plan import Plan
from modules.common.schedules import Position

BACKBONE = {
    "_target_": "modules.st_protopnet.networks.conv_backbone",
    "widths": [32, 48, 64, 64],
    "strides": [2, 2, 2, 1],
    "kernels": [5, 3, 3, 3],
}
ARMS = ("st", "trivial", "support", "plain", "twin")


def built(plan: Plan, name: str) -> Any:
    return training.build(plan.stages[name].module["losses"])


def test_phases_of_cropped_photos(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=st_protopnet", "scale=full").stages
    for arm in ARMS:
        order = [f"{arm}_warm", f"{arm}_joint", f"{arm}_push", arm]
        assert all(stages[later].needs == {"start": earlier} for earlier, later in pairwise(order))
        assert [stages[n].trainer["max_epochs"] for n in order] == [5, 16, 1, 10]
        assert [stages[n].data["copies"] for n in order] == [40, 40, 0, 40]
        assert stages[f"{arm}_warm"].module["rates"] == {"add_on": 3e-3, "prototypes": 3e-3}
        assert stages[f"{arm}_joint"].module["rates"] == {"backbone": 1e-4, "add_on": 3e-3, "prototypes": 3e-3}
        assert stages[f"{arm}_joint"].module["schedule"]["milestones"] == [7 - 5, 9 - 5, 11 - 5, 13 - 5]
        assert stages[arm].module["rates"] == {"last": 1e-4}
        assert stages[f"{arm}_warm"].module["network"]["scores"] == "projection"
        assert sum(stages[f"{arm}_warm"].module["network"]["branches"].values()) == 10


def test_phases_of_whole_photos(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=st_protopnet", "scale=full", "variant=whole")
    stages = plan.stages
    order = ["st_warm", "st_joint_1", "st_push_1", "st_last_1", "st_joint", "st_push", "st"]
    assert all(stages[later].needs == {"start": earlier} for earlier, later in pairwise(order))
    assert [stages[n].trainer["max_epochs"] for n in order] == [10, 91, 1, 10, 10, 1, 10]
    assert [bool(stages[n].data["augment"]) for n in order] == [True, True, False, True, True, False, True]
    assert all(stages[n].fit and stages[n].data["whole"] for n in order)
    assert stages["st_warm"].module["network"]["scores"] == "cosine"
    assert stages["st_heat"].test
    assert stages["st_heat"].data["_target_"].endswith("MaskedBirds")
    for setting, every in ((stages, 20), (make_plan("paper=st_protopnet", "scale=full", "variant=dogs").stages, 10)):
        factors = []
        for name, epochs in (("st_joint_1", 91), ("st_joint", 10)):
            schedule = training.build(setting[name].module["schedule"])
            factors += [schedule(Position(epoch, 0, 10, epochs)) for epoch in range(epochs)]
        assert factors == pytest.approx([0.2 ** (epoch // every) for epoch in range(1, 102)])  # stepped before an epoch
    dogs = make_plan("paper=st_protopnet", "scale=full", "variant=dogs").stages
    assert dogs["st_joint_1"].module["rates"]["backbone"] == 1e-5
    assert dogs["st_joint_1"].module["weight_decay"] == 5e-4
    assert not dogs["st_heat"].test


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_losses_are_the_published_ones(scale: str, make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=st_protopnet", f"scale={scale}")
    losses = {arm: built(plan, f"{arm}_warm") for arm in ARMS}
    trivial, support = losses["st"]["trivial"], losses["st"]["support"]
    assert losses["trivial"] == {"trivial": trivial}
    assert losses["support"] == {"support": support}
    assert (trivial.cluster, trivial.separation, trivial.orthogonality, trivial.l1) == (0.8, 0.08, 1e-3, 1e-4)
    assert (trivial.closeness, trivial.discrimination) == (0.0, 1.0)
    assert (support.cluster, support.separation, support.closeness, support.discrimination) == (0.8, 0.48, 1.0, 0.0)
    assert set(losses["twin"].values()) == set(losses["plain"].values())


def test_arms_of_a_seed_see_the_same_pictures_and_start_from_one_backbone(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=st_protopnet", "scale=mini", seed=3)
    stages = plan.stages
    first = training.build(stages["start"].data)
    for arm in (*ARMS, "st_long"):
        assert stages[f"{arm}_warm"].needs == {"backbone": "start"}
        for name in (f"{arm}_warm", f"{arm}_joint", f"{arm}_push", arm):
            assert stages[name].feeds == {"kept": "start"}
            source = training.build(stages[name].data["source"])
            assert (source.seed, source.per_class) == (first.seed, first.per_class)
    assert all(stages[f"{arm}_warm"].module["network"]["backbone"] == BACKBONE for arm in ARMS)


def test_an_arm_goes_on_with_the_backbone_of_a_stage(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=st_protopnet", "scale=smoke")
    start: Any = training.construct(plan, plan.stages["start"])
    arm: Any = training.construct_from(plan.stages["st_warm"], {"backbone": start})
    assert arm.network.backbone is start.network.backbone
    assert float(arm.network.branch("trivial").last.weight.sum()) == 40 * (5 - 0.5 * 195)


def test_budgets_of_mini(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=st_protopnet", "scale=mini").stages
    for phase in ("_warm", "_joint", ""):
        epochs = {arm: stages[f"{arm}{phase}"].trainer["max_epochs"] for arm in (*ARMS, "st_long")}
        assert epochs == {**dict.fromkeys(ARMS, epochs["st"]), "st_long": 2 * epochs["st"]}


def test_each_scale_has_its_main_claim(make_plan: Callable[..., Plan]) -> None:
    for scale, stage in (("mini", "placed"), ("full", "st")):
        main = claims.read(make_plan("paper=st_protopnet", f"scale={scale}").config).main
        assert main is not None
        assert str(main.better).split("/")[0] == stage
