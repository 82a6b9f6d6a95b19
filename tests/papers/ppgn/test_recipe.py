"""The published recipe in numbers: training of G and D, and the released scripts' chains."""

from __future__ import annotations

import pytest
import torch

from experiments.config import compose
from experiments.running import training
from experiments.running.plan import Plan, plan
from modules.common.schedules import Position


@pytest.fixture(scope="module")
def full() -> Plan:
    return plan(compose.compose(compose.request(["paper=ppgn", "scale=full"]).overrides), 0)


@pytest.mark.parametrize("name", ["noiseless", "joint", "no_gan"])
def test_training_of_generator_and_discriminator(full: Plan, name: str) -> None:
    """1.3 million steps of 64, Adam 5e-5, half the rate at 300, 500, 700, 900 and 1,100 thousand."""
    stage = full.stages[name]
    assert (stage.data["batch_size"], stage.reference_batch, stage.trainer["max_steps"]) == (64, 64, 1_300_000)
    assert stage.data["image_size"] == 227
    optimizer = stage.module["optimizer"]
    assert optimizer["_target_"] == "torch.optim.Adam"
    assert (optimizer["lr"], optimizer["betas"], optimizer["weight_decay"]) == (5e-5, [0.9, 0.999], 4e-4)
    schedule = training.build(stage.module["schedule"])
    factors = [schedule(Position(0, step, 1_300_000, 1)) for step in (0, 299_999, 300_000, 500_000, 1_299_999)]
    assert factors == pytest.approx([1, 1, 0.5, 0.25, 1 / 32])
    pause = training.build(stage.module["rules"]["pause"])
    assert (pause.low, pause.high) == (0.1, 10.0)


def test_weights_of_the_losses(full: Plan) -> None:
    """Caffe's sums: 2e-6 of the image, 0.01 of pool5, 100 of the adversarial loss; L_h and noise are Joint PPGN-h's."""
    weights = {name: full.stages[name].module["rules"]["weights"] for name in ("noiseless", "joint", "no_gan")}
    assert all((w["image"], w["feature"], w["form"]) == (2e-6, 0.01, "sum") for w in weights.values())
    assert {name: w["adversarial"] for name, w in weights.items()} == {"noiseless": 100, "joint": 100, "no_gan": 0}
    assert {name: w["code"] > 0 for name, w in weights.items()} == {"noiseless": False, "joint": True, "no_gan": False}
    assert {name: "noise" in full.stages[name].module["rules"] for name in weights} == {
        "noiseless": False,
        "joint": True,
        "no_gan": False,
    }


def test_networks_have_the_published_sizes(full: Plan) -> None:
    module = full.stages["noiseless"].module
    with torch.device("meta"):
        pair = training.build(module["pair"])
        sizes = [sum(p.numel() for p in part.parameters()) for part in (pair.generator, pair.discriminator)]
    assert sizes[0] in (56_097_891, 56_096_256)  # with and without the biases that do not learn
    assert sizes[1] == 1_015_104 + 5_114_882


def test_chains_for_classes(full: Plan) -> None:
    sampler = training.build(full.stages["sample_noiseless"].module["sampler"])
    assert (sampler.rule, sampler.e1, sampler.e2, sampler.e3) == ("released", 1e-5, 1.0, 1e-17)
    assert (sampler.lr, sampler.lr_end, sampler.steps) == (1.0, 1.0, 200)
    assert full.stages["sample_noiseless"].module["chains"]["gradient"] == "released"
    assert training.build(full.stages["sample_dgn_am"].module["sampler"]).e1 == 0
    for name in ("joint", "ppgn_h", "ppgn_x", "no_gan", "untrained", "zero"):
        assert full.stages[f"sample_{name}"].module["sampler"] == full.stages["sample_noiseless"].module["sampler"]


def test_what_else_chains_do(full: Plan) -> None:
    """A hole of 100 pixels in 20 steps; hidden units by ten starts of 100 steps; classes change at a constant rate."""
    hole = full.stages["inpaint"].module
    sampler = training.build(hole["sampler"])
    assert hole["hole"] == 100
    assert (sampler.e1, sampler.e2, sampler.e3, sampler.e4) == (1e-5, 1.0, 0.0, 1e-9)
    assert (sampler.lr, sampler.lr_end, sampler.steps) == (1.0, 1e-32, 20)

    facets = full.stages["facets"].module
    assert (facets["place"], facets.get("rounds", 10), facets.get("least", 0.98)) == ([6, 6], 10, 0.98)
    assert facets.get("e1", (1e-6, 1e-2)) == (1e-6, 1e-2)
    assert training.build(facets["sampler"]).steps == 100

    long = training.build(full.stages["change_class"].module["sampler"])
    assert long.lr == long.lr_end


def test_no_number_of_the_paper_is_held_to(full: Plan) -> None:
    """Its samples were judged by eye."""
    assert not full.config.get("published")
