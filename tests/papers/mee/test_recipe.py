"""The published recipes in numbers: CelebA as in RealnessGAN's script, CIFAR-10 as released; published scores."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from experiments.config import compose
from experiments.running import training
from experiments.running.plan import Plan, plan
from modules.common.schedules import Position
from modules.mee.entropy import PaperBuffer, ReleasedBuffer

Make = Callable[..., Plan]
ARMS = ["maf", "dlle", "full"]


def composed(*lines: str) -> Plan:
    return plan(compose.compose(compose.request(["paper=mee", "scale=full", *lines]).overrides), 0)


@pytest.fixture(scope="module")
def celeba() -> Plan:
    return composed()


@pytest.fixture(scope="module")
def cifar10() -> Plan:
    return composed("variant=cifar10")


def test_cifar10_trains_as_released(cifar10: Plan) -> None:
    """1,800 epochs of 64 images, Adam 1e-4, betas 0 and 0.999, the rate times 0.9 every 50 epochs, G every third."""
    for name in ARMS:
        stage = cifar10.stages[name]
        module = stage.module
        assert (stage.fit, stage.test) == (True, True)
        assert (stage.trainer["max_epochs"], stage.data["batch_size"], stage.reference_batch) == (1800, 64, 64)
        assert module["critic_steps"] == 3
        assert module["optimizer"] == {
            "_target_": "torch.optim.Adam",
            "_partial_": True,
            "lr": 1e-4,
            "betas": [0.0, 0.999],
        }
        schedule = training.build(module["schedule"])
        factors = [schedule(Position(epoch, 0, 781, 1800)) for epoch in (0, 49, 50, 100, 1799)]
        assert factors == pytest.approx([1, 1, 0.9, 0.81, 0.9**35])
        assert stage.data["augment"] == [{"_target_": "datamodules.common.augment.HorizontalFlip"}]
        assert stage.data["source"]["val_size"] == 0  # all training images
        mixing = {"_target_": "modules.mee.losses.Mixing", "alpha": "normal", "noise": 0.05, "weight": 1.0}
        assert module["terms"]["mixing"] == mixing


def test_which_terms_the_arms_have(cifar10: Plan) -> None:
    terms = {name: cifar10.stages[name].module["terms"] for name in ARMS}
    assert [terms[name]["neighbours"] is not None for name in ARMS] == [False, True, True]
    assert [terms[name]["entropy"] is not None for name in ARMS] == [False, False, True]
    assert terms["full"]["neighbours"] == {"_target_": "modules.mee.neighbours.Flip"}  # along height or width


def test_the_entropy_of_the_readme(cifar10: Plan) -> None:
    entropy = training.build(cifar10.stages["full"].module["terms"]["entropy"])
    assert [entropy.weight_at(epoch) for epoch in (0, 50, 100, 1000)] == pytest.approx([0, 2.5e-4, 5e-4, 5e-4])
    assert isinstance(entropy.real, PaperBuffer)
    assert entropy.real.codes.shape == entropy.fake.codes.shape == (1024, 16)

    released = composed("variant=cifar10_released").stages["full"]
    buffer = training.build(released.module["terms"]["entropy"]).real
    assert isinstance(buffer, ReleasedBuffer)
    assert buffer.codes.shape == (1024, 64, 16)


def test_the_networks_of_cifar10(cifar10: Plan) -> None:
    """Weights of the released networks, less a layer of 131,072 that is evaluated and not used."""
    module = cifar10.stages["maf"].module
    with torch.device("meta"):
        generator = training.build(module["generator"])
        embedding = training.build(module["embedding"])
    assert sum(p.numel() for p in generator.parameters()) == 3_153_664
    assert sum(p.numel() for p in embedding.parameters()) == 3_020_800 - 131_072
    assert (generator.code, embedding.outcomes) == (64, 16)


def test_the_recipe_of_celeba(celeba: Plan) -> None:
    """520,000 steps of 32, width 32, 51 outcomes, one step of G for one of D, Adam 2e-4 with betas 0.5 and 0.999."""
    assert {name for name, stage in celeba.stages.items() if stage.fit} == {"maf", "full"}
    for name in ("maf", "full"):
        stage = celeba.stages[name]
        module = stage.module
        steps = stage.trainer["max_epochs"] * -(-202_599 // stage.data["batch_size"])
        assert steps == pytest.approx(520_000, rel=0.005)
        assert (stage.data["batch_size"], stage.data["image_size"], module["critic_steps"]) == (32, 256, 1)
        assert (module["optimizer"]["lr"], module["optimizer"]["betas"]) == (2e-4, [0.5, 0.999])
        assert module.get("schedule") is None
        assert (module["generator"]["size"], module["generator"]["width"], module["generator"]["code"]) == (
            256,
            32,
            128,
        )
        assert (module["embedding"]["outcomes"], module["embedding"]["body"]["width"]) == (51, 32)
    assert celeba.stages["full"].module["terms"]["entropy"]["weight"] == 5e-4


def test_published_scores_stand_with_the_arm_that_has_them(celeba: Plan) -> None:
    rows = {
        (row["dataset"], row["stage"], row["metric"]): (row["value"], row.get("variant"))
        for row in celeba.config["published"]
    }
    assert rows == {
        ("CelebA", "full", "test/fid"): (9.13, None),
        ("CelebA", "maf", "test/fid"): (12.43, None),
        ("ANIME-FACE", "full", "test/is"): (2.80, "anime_face"),
    }
