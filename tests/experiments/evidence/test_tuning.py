"""The grid of a recipe, and which value is best for each arm."""

from __future__ import annotations

import math
from typing import Any

import pytest

from experiments.common.errors import InputError
from experiments.config.trials import Grid
from experiments.evidence import tuning

TUNE = {"arms": ["a", "b"], "keys": ["stages.*.lr"], "values": [0.1, 0.2, 0.4], "seeds": [1, 2]}


def grid(**changed: Any) -> Grid:
    read = tuning.read({"stages": {"a": {}, "b": {}}, "tune": {**TUNE, **changed}})
    assert read is not None
    return read


def test_each_arm_gets_its_best_mean_and_an_edge_is_said() -> None:
    scores = {"a": [[1.0, 3.0], [4.0, 4.0], [9.0, 0.0]], "b": [[5.0, 5.0], [4.0, 4.0], [3.0, 3.0]]}
    chosen = tuning.choose(grid(), scores)
    assert chosen["a"] == {"value": 0.4, "mean": 4.5, "edge": True, "means": [2.0, 4.0, 4.5]}
    assert (chosen["b"]["value"], chosen["b"]["edge"]) == (0.1, True)
    lower = tuning.choose(grid(lower_is_better=True), scores)
    assert (lower["a"]["value"], lower["b"]["value"]) == (0.1, 0.4)


def test_of_equally_good_values_it_is_the_middle_one() -> None:
    """Where every rate reaches the ceiling, the lowest one is no edge that asks for a wider grid."""
    chosen = tuning.choose(grid(), {"a": [[100.0], [100.0], [100.0]], "b": [[1.0], [7.0], [7.0]]})
    assert (chosen["a"]["value"], chosen["a"]["edge"]) == (0.2, False)
    assert chosen["b"]["value"] == 0.2


def test_a_value_at_which_a_seed_failed_cannot_be_best() -> None:
    scores = {"a": [[1.0, 1.0], [2.0, 2.0], [50.0, None]], "b": [[None, None], [math.nan, 1.0], [None, 3.0]]}
    chosen = tuning.choose(grid(), scores)
    assert (chosen["a"]["value"], chosen["a"]["edge"]) == (0.2, False)
    assert chosen["b"]["value"] is None


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"values": [0.1, 0.2]}, "three to seven different values"),
        ({"values": [0.1, 0.1, 0.2]}, "three to seven different values"),
        ({"arms": ["a"]}, "two or more"),
        ({"arms": ["a", "c"]}, r"tune\.arms: stage 'c'"),
        ({"by": "test/top1"}, "test images are not looked at"),
        ({"seeds": [1000]}, "expected pilot seeds"),
        ({"gird": 1}, "gird"),
    ],
)
def test_a_grid_that_makes_no_sense_is_named(changed: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        grid(**changed)


def test_nothing_to_tune_gives_its_reason() -> None:
    none = tuning.read({"stages": {}, "tune": {"none": "kernels in closed form"}})
    assert none is not None
    assert none.none == "kernels in closed form"
    assert tuning.read({"stages": {}}) is None
