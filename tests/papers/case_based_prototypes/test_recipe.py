"""The full recipe against the numbers of the released code; what the arms of a comparison share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.config import claims, compose
from experiments.running import training
from experiments.running.plan import Plan, plan

ARMS = ("prototypes", "unregularised", "dense", "dense_no_decoder")


def compose_full(variant: str = "") -> Plan:
    lines = ["paper=case_based_prototypes", "scale=full", *([f"variant={variant}"] if variant else [])]
    return plan(compose.compose(compose.request(lines).overrides), 0)


@pytest.fixture(scope="module")
def full() -> Plan:
    return compose_full()


def test_the_released_recipe(full: Plan) -> None:
    """55,000 images in batches of 250 for 1500 epochs: 330,000 steps of Adam at 0.002, deformed, without a schedule."""
    for name in ARMS:
        stage = full.stages[name]
        assert stage.data["_target_"].endswith("MNIST")
        assert stage.data["batch_size"] == stage.reference_batch == 250
        assert stage.trainer["max_epochs"] * (60_000 - stage.data["val_size"]) // 250 == 330_000
        assert stage.trainer["precision"] == "32-true"
        assert stage.module["optimizer"] == {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.002}
        assert stage.module.get("schedule") is None
        (deformation,) = stage.data["augment"]
        assert deformation["_target_"].endswith("ElasticDeformation")
        assert (deformation["sigma"], deformation["alpha"]) == (4, 20)


def test_the_released_network_and_loss(full: Plan, parameters: Callable[..., int]) -> None:
    module = full.stages["prototypes"].module
    assert parameters(training.construct_from(full.stages["prototypes"], {})) == 44_153
    assert {name: module["weights"][name] for name in ("e", "r", "r1", "r2")} == {"e": 20, "r": 1, "r1": 1, "r2": 1}
    network = module["network"]
    assert (network["layer"], network["units"]) == ("prototypes", 15)
    convolutions = network["convolutions"]
    assert (convolutions["widths"], convolutions["act"]) == ([32, 32, 32, 10], "relu")
    assert (convolutions["decode"], convolutions["initial_std"]) == (True, 0.01)


def test_variants() -> None:
    assert compose_full("sigmoid").stages["prototypes"].module["network"]["convolutions"]["act"] == "sigmoid"
    garments = compose_full("fashion_mnist").stages["prototypes"]
    assert garments.data["_target_"].endswith("FashionMNIST")
    assert (garments.trainer["max_epochs"], garments.data["batch_size"], garments.data["val_size"]) == (1500, 250, 5000)


def test_no_remembered_number_is_published(full: Plan) -> None:
    """99.22 and the other accuracies are remembered alone; the claims' margins are written as such."""
    assert not compose.paper_file("case_based_prototypes")["published"]
    assert all(claim.published is None for claim in claims.read(full.config).claims)
