"""The full recipe against the numbers of the released code; what the arms of a comparison share; two processes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from experiments.config import claims, compose
from experiments.running import engine, training
from experiments.running.plan import Plan, plan
from modules.common.schedules import Position

BACKBONE = {
    "_target_": "modules.st_protopnet.networks.conv_backbone",
    "widths": [32, 48, 64, 64],
    "strides": [2, 2, 2, 1],
    "kernels": [5, 3, 3, 3],
}
ARMS = ("st", "trivial", "support", "plain", "twin")


def built(this: Plan, name: str) -> Any:
    return training.build(this.stages[name].module["losses"])


def compose_full(variant: str = "") -> Plan:
    lines = ["paper=st_protopnet", "scale=full", *([f"variant={variant}"] if variant else [])]
    return plan(compose.compose(compose.request(lines).overrides), 0)


@pytest.fixture(scope="module")
def full() -> Plan:
    return compose_full()


@pytest.fixture(scope="module")
def whole() -> dict[str, Plan]:
    """Whole photos: of birds and of dogs."""
    return {"birds": compose_full("whole"), "dogs": compose_full("dogs")}


def test_phases_of_cropped_photos(full: Plan) -> None:
    stages = full.stages
    for arm in ARMS:
        order = [f"{arm}_warm", f"{arm}_joint", f"{arm}_push", arm]
        assert all(stages[later].needs == {"start": earlier} for earlier, later in pairwise(order))
        assert [stages[n].trainer["max_epochs"] for n in order] == [5, 16, 1, 10]
        assert [stages[n].data["variation"]["copies"] for n in order] == [40, 40, 0, 40]
        assert [stages[n].data["batch_size"] for n in order] == [80, 80, 100, 80]
        assert stages[f"{arm}_warm"].module["parts"]["rates"] == {"add_on": 3e-3, "prototypes": 3e-3}
        assert stages[f"{arm}_joint"].module["parts"]["rates"] == {"backbone": 1e-4, "add_on": 3e-3, "prototypes": 3e-3}
        schedule = stages[f"{arm}_joint"].module["schedule"]
        assert (schedule["milestones"], schedule["gamma"]) == ([7 - 5, 9 - 5, 11 - 5, 13 - 5], 0.2)
        assert stages[arm].module["parts"]["rates"] == {"last": 1e-4}
        for name in (f"{arm}_warm", f"{arm}_joint", arm):
            assert stages[name].module["optimizer"]["_target_"] == "torch.optim.Adam"
        network = stages[f"{arm}_warm"].module["network"]
        assert (network["scores"], network["channels"], network["classes"]) == ("projection", 64, 200)
        assert sum(network["branches"].values()) == 10
    assert stages["st_warm"].module["network"]["branches"] == {"trivial": 5, "support": 5}
    assert stages["st_warm"].module["network"]["backbone"]["name"] == "resnet34"
    assert stages["st_warm"].module["parts"]["weight_decay"] == 5e-4
    data = stages["st_warm"].data
    assert (data["image_size"], data["variation"]["kinds"]) == (224, ["rotate", "skew", "shear", "bend"])


def test_densenets_decay_twice_as_much() -> None:
    assert compose_full("densenet121").stages["st_warm"].module["parts"]["weight_decay"] == 1e-3


def test_projections_and_heat_are_not_rounded(full: Plan) -> None:
    for name in ("st_push", "st_push_1", "plain_push", "st_heat"):
        assert full.stages[name].trainer["precision"] == "32-true"


def test_published_rows_say_whether_prototypes_were_projected() -> None:
    rows = compose.paper_file("st_protopnet")["published"]
    assert {(row["variant"], row["stage"]): row["value"] for row in rows} == {
        ("default", "st_joint"): 83.40,  # of epoch 20; 83.45 is epoch 19's
        ("default", "st_push"): 82.48,
        ("default", "st"): 82.31,
        ("vgg19", "st_joint"): 83.50,
        ("resnet152", "st_joint"): 84.40,
        ("densenet121", "st_joint"): 85.59,
        ("densenet161", "st_joint"): 85.71,
        ("whole_40", "st_joint"): 80.24,
    }
    assert all("before" in row["protocol"] for row in rows)


def test_phases_of_whole_photos(whole: dict[str, Plan]) -> None:
    stages, dogs = whole["birds"].stages, whole["dogs"].stages
    order = ["st_warm", "st_joint_1", "st_push_1", "st_last_1", "st_joint", "st_push", "st"]
    assert all(stages[later].needs == {"start": earlier} for earlier, later in pairwise(order))
    assert [stages[n].trainer["max_epochs"] for n in order] == [10, 91, 1, 10, 10, 1, 10]
    assert [bool(stages[n].data["variation"]["augment"]) for n in order] == [True, True, False, True, True, False, True]
    assert all(stages[n].fit and stages[n].data["whole"] for n in order)
    assert stages["st_warm"].module["network"]["scores"] == "cosine"
    assert stages["st_heat"].test
    assert stages["st_heat"].data["_target_"].endswith("MaskedBirds")
    for setting, every in ((stages, 20), (dogs, 10)):
        factors = []
        for name, epochs in (("st_joint_1", 91), ("st_joint", 10)):
            schedule = training.build(setting[name].module["schedule"])
            factors += [schedule(Position(epoch, 0, 10, epochs)) for epoch in range(epochs)]
        assert factors == pytest.approx([0.2 ** (epoch // every) for epoch in range(1, 102)])  # stepped before an epoch
    assert stages["st_joint_1"].module["parts"]["rates"]["backbone"] == 1e-4
    assert stages["st_joint_1"].module["parts"]["weight_decay"] == 1e-4
    assert dogs["st_joint_1"].module["parts"]["rates"]["backbone"] == 1e-5
    assert dogs["st_joint_1"].module["parts"]["weight_decay"] == 5e-4
    assert not dogs["st_heat"].test


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_losses_are_the_published_ones(scale: str, make_plan: Callable[..., Plan]) -> None:
    this = make_plan("paper=st_protopnet", f"scale={scale}")
    losses = {arm: built(this, f"{arm}_warm") for arm in ARMS}
    trivial, support = losses["st"]["trivial"], losses["st"]["support"]
    assert losses["trivial"] == {"trivial": trivial}
    assert losses["support"] == {"support": support}
    assert (trivial.cluster, trivial.separation, trivial.orthogonality, trivial.l1) == (0.8, 0.08, 1e-3, 1e-4)
    assert (trivial.closeness, trivial.discrimination) == (0.0, 1.0)
    assert (support.cluster, support.separation, support.closeness, support.discrimination) == (0.8, 0.48, 1.0, 0.0)
    assert set(losses["twin"].values()) == set(losses["plain"].values())
    assert losses["plain"]["plain"].orthogonality == (trivial.orthogonality if scale == "mini" else 0)


def test_arms_of_a_seed_see_the_same_pictures_and_start_from_one_backbone(make_plan: Callable[..., Plan]) -> None:
    this = make_plan("paper=st_protopnet", "scale=mini", seed=3)
    stages = this.stages
    first = training.build(stages["start"].data)
    for arm in ARMS:
        assert stages[f"{arm}_warm"].needs == {"backbone": "start"}
        for name in (f"{arm}_warm", f"{arm}_joint", f"{arm}_push", arm):
            assert stages[name].feeds == {"kept": "start"}
            source = training.build(stages[name].data["source"])
            assert (source.seed, source.per_class, source.noise) == (first.seed, first.per_class, first.noise)
    assert all(stages[f"{arm}_warm"].module["network"]["backbone"] == BACKBONE for arm in ARMS)


def test_an_arm_goes_on_with_the_backbone_of_a_stage(make_plan: Callable[..., Plan]) -> None:
    this = make_plan("paper=st_protopnet", "scale=smoke")
    start: Any = training.construct(this, this.stages["start"])
    arm: Any = training.construct_from(this.stages["st_warm"], {"backbone": start})
    assert arm.network.backbone is start.network.backbone
    assert float(arm.network.branch("trivial").last.weight.sum()) == 40 * (5 - 0.5 * 195)


def test_budgets_of_mini(make_plan: Callable[..., Plan]) -> None:
    """As many steps in all arms, and one recipe but for the rate of prototypes and add-on layers, see tune."""
    stages = make_plan("paper=st_protopnet", "scale=mini").stages
    for phase in ("_warm", "_joint", "_push", ""):
        trainers = [stages[f"{arm}{phase}"].trainer for arm in ARMS]
        assert all(trainer == trainers[0] for trainer in trainers)
    for phase in ("_warm", "_joint", ""):
        options = [stages[f"{arm}{phase}"].module for arm in ARMS]
        assert all(option["optimizer"] == options[0]["optimizer"] for option in options)
        others = [
            {name: rate for name, rate in option["parts"]["rates"].items() if name not in ("add_on", "prototypes")}
            for option in options
        ]
        assert all(rates == others[0] for rates in others)


def test_rates_of_mini_are_chosen_on_pictures_that_no_stage_learns_from(make_plan: Callable[..., Plan]) -> None:
    this = make_plan("paper=st_protopnet", "scale=mini")
    assert set(this.config["tune"]["arms"]) == set(ARMS)
    for arm in ARMS:
        data = this.stages[arm].data
        assert data["source"]["val_per_class"] == 8
        assert this.stages[arm].trainer["check_val_every_n_epoch"] == this.stages[arm].trainer["max_epochs"]


def test_each_scale_has_its_main_claim(make_plan: Callable[..., Plan]) -> None:
    """Against one branch of plain prototypes first, then against the rivals."""
    for scale in ("mini", "full"):
        config = make_plan("paper=st_protopnet", f"scale={scale}").config
        main = claims.read(config).main
        assert main is not None
        assert main.better == "st/test/top1"
        (written,) = [claim for claim in config["claims"] if claim.get("main") and claim["scale"] == scale]
        assert [*written["than"].values()] == [f"{arm}/test/top1" for arm in ("plain", "twin", "trivial", "support")]


@pytest.mark.slow
def test_turns_of_two_branches_on_two_processes_are_those_on_one(make_plan: Callable[..., Plan]) -> None:
    """A branch whose turn it is not has no gradient on either process."""
    weights, metrics = [], []
    for trainer in ("cpu", "ddp_cpu"):
        sgd = [f"stages.st_{n}.module.optimizer={{_target_:torch.optim.SGD,_partial_:true}}" for n in ("warm", "joint")]
        this = make_plan("paper=st_protopnet", f"trainer={trainer}", "stages.st_joint.test=true", *sgd)
        for name in ("start", "st_warm"):
            engine.ensure(this, this.stages[name])
        metrics.append(engine.ensure(this, this.stages["st_joint"]).metrics)
        weights.append(torch.load(this.stages["st_joint"].directory / "last.ckpt", weights_only=True)["state_dict"])
    assert metrics[0]["test/n"] == metrics[1]["test/n"] == 40
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3)
    assert all(torch.allclose(weights[0][k].double(), weights[1][k].double(), atol=1e-5) for k in weights[0])
