"""What the recipes of the deep kernels say."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.config import claims, compose
from experiments.running.devices import processes
from experiments.running.plan import Plan


def test_full_recipe_is_the_released_settings(make_plan: Callable[..., Plan]) -> None:
    full = make_plan("paper=ntk_optimality", "scale=full").stages
    depths = {"matched": 100, "rival_a": 100, "rival_b": 100, "rival_c": 100, "erf": 200, "sine_a1": 100}
    depths |= {"sine_d2": 100, "sine_d4": 50, "sine_d8": 50}
    for block in ("line", "space"):
        for name, depth in depths.items():
            stage = full[f"{block}_{name}"]
            assert (stage.module["depth"], stage.module["kernel"]) == (depth, "nngp")
            assert (stage.data["n_train"], stage.data["n_test"], stage.data["prior"]) == (10_000, 10_000, 0.4)
            assert stage.trainer["precision"] == "64-true"
    relu = full["line_relu_tiny"]
    assert (relu.module["depth"], relu.module["kernel"], relu.data["n_train"]) == (50_000, "ntk", 100)
    for variant, dimension in ((None, 2), ("full_five_coordinates", 4), ("full_nine_coordinates", 8)):
        stages = make_plan("paper=ntk_optimality", "scale=full", *([f"variant={variant}"] if variant else [])).stages
        assert stages["space_matched"].module["dual"]["dimension"] == dimension
        assert len(stages["space_bayes"].module["plus"]) == dimension + 1
        orders = {
            stages[f"space_{name}"].module["dual"]["dimension"] for name in ("matched", "rival_a", "rival_b", "rival_c")
        }
        assert orders == {1, 2, 4, 8}


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_arms_of_a_block_see_the_same_points(scale: str, make_plan: Callable[..., Plan]) -> None:
    """Claims are on paired differences: the same pool and test points, and as many training points in both arms."""
    plan = make_plan("paper=ntk_optimality", f"scale={scale}")
    for block in ("line", "space", "image"):
        data = [dict(stage.data) for name, stage in plan.stages.items() if name.startswith(f"{block}_")]
        assert len(data) > 5
        for one in data:
            one.pop("n_train", None)
        assert all(one == data[0] for one in data)
    points = {name: stage.data.get("n_train") for name, stage in plan.stages.items()}
    for claim in claims.read(plan.config).claims:
        better, than = claim.better.split("/")[0], str(claim.than).split("/")[0]
        if than in points and "few" not in str(claim.than):
            assert points[better] == points[than], claim.name
    for network_, limit in (("line_matched", "line_limit"), ("line_ntk_deep", "line_limit_small")):
        assert plan.stages[network_].module["dual"] == plan.stages[limit].module["dual"]
        assert plan.stages[network_].needs["limit"] == limit
        assert points[network_] == points[limit]


@pytest.mark.parametrize(("variant", "block"), [("mnist", "image_"), ("nine_coordinates", "space_")])
def test_a_variant_judges_what_it_changes(variant: str, block: str, make_plan: Callable[..., Plan]) -> None:
    asked = claims.read(make_plan("paper=ntk_optimality", "scale=mini", f"variant={variant}").config).claims
    assert len(asked) > 1
    assert all(claim.main or claim.better.startswith(block) for claim in asked)


def test_no_number_is_called_published() -> None:
    """The released code prints accuracies and keeps none; those of the paper's figures are not known as numbers."""
    assert not compose.paper_file("ntk_optimality").get("published")


def test_dirichlet_classes_are_the_released_ones(make_plan: Callable[..., Plan]) -> None:
    """Parameters of both classes in 2, 3, 5 and 9 coordinates."""
    classes = {
        None: {"line": ([1, 2], [2, 1]), "space": ([0.5, 0.5, 2.5], [2.5, 0.1, 0.5])},
        "full_five_coordinates": {"space": ([3, 1, 2, 1, 1], [1, 2, 2, 2, 3])},
        "full_nine_coordinates": {"space": ([1, 2, 1, 2, 1, 1, 1, 1, 1], [1, 1, 1, 2, 3, 4, 2, 2, 1])},
    }
    for variant, blocks in classes.items():
        stages = make_plan("paper=ntk_optimality", "scale=full", *([f"variant={variant}"] if variant else [])).stages
        for block, (plus, minus) in blocks.items():
            bayes = stages[f"{block}_bayes"].module
            assert (bayes["plus"], bayes["minus"]) == (plus, minus)
            data = stages[f"{block}_matched"].data
            assert (data["plus"], data["minus"]) == (plus, minus)


@pytest.mark.parametrize("scale", ["mini", "full"])
def test_what_is_solved_at_once_asks_for_one_device_whatever_the_trainer(
    scale: str, make_plan: Callable[..., Plan]
) -> None:
    """A kernel's system of equations has no gradient to share: half of the points each would solve another one."""
    stages = make_plan("paper=ntk_optimality", f"scale={scale}", "trainer=ddp_cpu").stages
    assert {(processes(stage.trainer), stage.trainer["strategy"]) for stage in stages.values()} == {(1, "auto")}
