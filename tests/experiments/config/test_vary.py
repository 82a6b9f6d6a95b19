"""Neighbouring recipes: what is drawn, and where it goes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from omegaconf import OmegaConf

from experiments.common.errors import InputError
from experiments.config import vary
from experiments.config.trials import Knob

RATE = {"keys": ["stages.*.lr"], "times": [0.5, 2]}
CONFIG = {
    "epochs": 60,
    "seed": 3,
    "batch": {"size": 64, "twice": "${epochs}"},
    "stages": {
        "a": {"lr": 0.1, "trainer": {"max_epochs": 60, "milestones": [30, 45]}, "noise": 0.3},
        "b": {"lr": 0.01, "trainer": {"max_epochs": "${epochs}", "milestones": [20]}, "noise": 0.3},
        "c": {"trainer": {"max_epochs": 1}},
    },
}


def knobs(**items: Any) -> dict[str, Knob]:
    return vary.read({"vary": items})


def turned(items: dict[str, Any], drawn: dict[str, Any], groups: Any = None) -> Any:
    config = OmegaConf.create(CONFIG)
    return OmegaConf.to_container(vary.turn(config, knobs(**items), drawn, groups), resolve=True)["stages"]  # type: ignore[index, call-overload]


def test_a_draw_hangs_on_registration_seed_and_knob_alone() -> None:
    both = knobs(rate=RATE, noise={"keys": ["stages.*.noise"], "between": [0.1, 0.4]})
    assert vary.draw(both, "abc", 7) == vary.draw(both, "abc", 7)
    assert vary.draw({"rate": both["rate"]}, "abc", 7)["rate"] == vary.draw(both, "abc", 7)["rate"]
    others = [vary.draw(both, "abc", 8), vary.draw(both, "abd", 7)]
    assert all(other["rate"] != vary.draw(both, "abc", 7)["rate"] for other in others)


def test_factors_are_even_on_the_logarithmic_scale_and_stay_in_their_range() -> None:
    rate = knobs(rate=RATE)
    factors = [vary.draw(rate, "abc", seed)["rate"] for seed in range(2000)]
    assert 0.5 <= min(factors) < 0.51
    assert 1.96 < max(factors) <= 2
    assert abs(sum(map(math.log, factors)) / len(factors)) < 3 * math.log(4) / math.sqrt(12 * len(factors))


def test_one_factor_goes_to_every_arm_and_keeps_their_ratio() -> None:
    stages = turned({"rate": RATE}, {"rate": 2.0})
    assert (stages["a"]["lr"], stages["b"]["lr"]) == (0.2, 0.02)
    assert "lr" not in stages["c"]


def test_whole_numbers_stay_whole_milestones_follow_and_one_epoch_stays_one() -> None:
    items = {"epochs": {"keys": ["stages.*.trainer.max_epochs", "stages.*.trainer.milestones"], "times": [0.4, 1.5]}}
    stages = turned(items, {"epochs": 0.4})
    assert stages["a"]["trainer"] == {"max_epochs": 24, "milestones": [12, 18]}
    assert stages["c"]["trainer"] == {"max_epochs": 1}
    assert stages["b"]["trainer"] == {"max_epochs": 60, "milestones": [8]}  # refers to a number that is not varied


def test_a_value_of_the_recipes_own_is_followed_by_what_reads_it() -> None:
    stages = turned({"epochs": {"keys": ["epochs"], "times": [0.5, 2]}}, {"epochs": 0.5})
    assert stages["b"]["trainer"]["max_epochs"] == 30
    assert stages["a"]["trainer"]["max_epochs"] == 60  # says its own


def test_groups_and_values() -> None:
    items = {"noise": {"keys": ["stages.noisy.noise"], "among": [0.1, 0.2]}}
    stages = turned(items, {"noise": 0.2}, {"noisy": ["b"]})
    assert (stages["a"]["noise"], stages["b"]["noise"]) == (0.3, 0.2)


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ({"keys": ["stages.*.lr"]}, "expected one of times, between, among, got none"),
        ({**RATE, "between": [0, 1]}, "got times, between"),
        ({**RATE, "times": [2, 0.5]}, "expected a lower and a higher number"),
        ({**RATE, "times": [0, 2]}, "expected a positive number"),
        ({"keys": ["stages.*.lr"], "among": [1]}, "expected two values or more"),
        ({"keys": ["stages.lr"], "times": [0.5, 2]}, r"expected some such as stages\.\*"),
        ({**RATE, "factor": [1, 2]}, "factor"),
    ],
)
def test_a_knob_that_makes_no_sense_is_named(item: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        knobs(rate=item)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("stages.d.lr", "stage 'd' does not exist"),
        ("stages.c.lr", "no stage has this as a number of its own"),
        ("stages.b.trainer.max_epochs", "no stage has this as a number of its own"),
        ("epoch", "the recipe's own value 'epoch' does not exist; did you mean 'epochs'"),
        ("seed", "the recipe's own value 'seed' does not exist"),
        ("batch.sizes", "the recipe's own value"),
        ("batch.twice", "refers to another number"),
    ],
)
def test_a_key_that_leads_nowhere_is_named(key: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        turned({"rate": {"keys": [key], "times": [0.5, 2]}}, {"rate": 2.0})
