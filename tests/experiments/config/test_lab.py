"""The lab scale: what its recipes say of data, sizes of networks and claims."""

from __future__ import annotations

from typing import Any

import pytest
from hydra.utils import instantiate

from experiments.common.errors import InputError
from experiments.config import claims, compose
from experiments.running.plan import plan

LAB = ("meal_v2", "rotnet", "simclr_v2")


def composed(paper: str, scale: str) -> dict[str, Any]:
    return dict(plan(compose.compose(compose.request([f"paper={paper}", f"scale={scale}"]).overrides), 0).config)


@pytest.mark.parametrize("paper", LAB)
def test_networks_have_1_to_25_million_parameters_and_see_all_of_cifar(paper: str) -> None:
    config = composed(paper, "lab")
    networks = {str(n): n for s in config["stages"].values() if (n := s["module"].get("network")) is not None}
    assert networks
    for name, node in networks.items():
        count = sum(p.numel() for p in instantiate(node).parameters())
        assert 1e6 <= count <= 25e6, name
    for name, stage in config["stages"].items():
        data = stage["data"].get("source", stage["data"])
        assert data["_target_"].rsplit(".", 1)[1] in ("CIFAR10", "CIFAR100"), name
        assert (data["train_size"], data["test_size"]) == (None, None), name


@pytest.mark.parametrize("paper", LAB)
def test_the_main_claim_is_that_of_mini(paper: str) -> None:
    """The same sides, rivals, worth and preconditions; and its arms are tuned and drawn anew as there."""
    mini, lab = (composed(paper, scale) for scale in ("mini", "lab"))
    assert claims.read(lab).main == claims.read(mini).main is not None
    assert lab["tune"]["arms"] == mini["tune"]["arms"]
    assert lab["tune"]["keys"] == mini["tune"]["keys"]
    assert lab["vary"]


def test_a_paper_without_a_recipe_says_which_it_has() -> None:
    with pytest.raises(InputError, match="scale=lab: zpe has no recipe for it; expected full or mini or smoke"):
        compose.request(["paper=zpe", "scale=lab"])
