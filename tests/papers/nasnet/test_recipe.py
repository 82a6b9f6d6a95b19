"""What the recipes say: rates, arms that differ in one thing, variants."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.config import claims, compose
from experiments.running import training
from experiments.running.plan import Plan, plan
from modules.common.schedules import Position


def test_learning_rates_of_the_full_recipe(make_plan: Callable[..., Plan]) -> None:
    cifar = make_plan("paper=nasnet", "scale=full").stages["nasnet_a"]
    assert cifar.trainer["max_epochs"] * 50_000 / cifar.data["batch_size"] == 937_500
    rate = training.build(cifar.module["schedule"])
    assert [rate(Position(e, 0, 1562, 600)) for e in (0, 300, 600)] == pytest.approx([1, 0.5, 0], abs=1e-6)
    large = make_plan("paper=nasnet", "scale=full", "variant=large").stages["nasnet_a"]
    assert large.module["optimizer"]["lr"] == pytest.approx(0.015 * 100)
    assert large.data["batch_size"] == large.reference_batch == 16 * 100
    rate = training.build(large.module["schedule"])
    assert [rate(Position(e, 0, 800, 312)) for e in (0, 2, 3, 24)] == pytest.approx([1, 1, 0.97, 0.97**10])
    assert rate(Position(2, 320, 800, 312)) == pytest.approx(0.97)
    mobile = make_plan("paper=nasnet", "scale=full", "variant=mobile").stages["nasnet_a"]
    assert mobile.module["optimizer"]["lr"] == pytest.approx(0.04 * 50)
    assert large.trainer["max_epochs"] == round(large.module["drop_path"]["steps"] * 1600 / 1_281_167)


def test_arms_differ_in_the_method_alone(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=nasnet", "scale=mini").stages
    ppo, random = stages["ppo"], stages["random"]
    assert ppo.data == random.data
    assert (ppo.needs, ppo.trainer) == (random.needs, random.trainer)
    assert {k: v for k, v in ppo.module.items() if k not in ("ppo", "optimizer")} == random.module
    arms = [stages[name] for name in ("nasnet_a", "drop_path", "no_drop_path")]
    assert all(arm.data == arms[0].data and arm.trainer == arms[0].trainer for arm in arms)
    modules = [{k: v for k, v in arm.module.items() if k != "drop_path"} for arm in arms]
    assert modules[0] == modules[1] == modules[2]
    assert stages["ranking"].needs == {"ranked": "random", "search": "ppo", "against": "random"}
    assert training.build(random.module["space"]).count > 10**4


def test_one_block_is_replayed_on_a_table_of_all_cells(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=nasnet", "scale=mini", "variant=one_block").stages
    table, ppo, random = stages["table"], stages["ppo"], stages["random"]
    assert table.data["trials"] == len(training.build(table.module["space"]).architectures()) == 72
    assert table.module["space"] == ppo.module["space"] == random.module["space"]
    assert ppo.needs == random.needs == {"table": "table"}
    assert ppo.data["trials"] == random.data["trials"] == random.module["samples"] == 400
    assert stages["ranking"].needs == {"ranked": "table", "search": "ppo", "against": "random"}


def test_arms_of_the_full_recipe(make_plan: Callable[..., Plan]) -> None:
    this = make_plan("paper=nasnet", "scale=full")
    by_ppo, by_random = this.stages["found"], this.stages["found_random"]
    assert (by_ppo.module, by_ppo.data, by_ppo.trainer) == (by_random.module, by_random.data, by_random.trainer)
    assert (by_ppo.needs, by_random.needs) == ({"search": "ppo"}, {"search": "random"})
    judged = {s for claim in claims.read(this.config).claims for s in claims.stages_of(claim, list(this.stages))}
    assert "ranking" not in judged  # it trains on what was searched on


@pytest.mark.parametrize("variant", ["no_cutout", "wide", "mobile", "large"])
def test_variants_train_one_network(make_plan: Callable[..., Plan], variant: str) -> None:
    this = make_plan("paper=nasnet", "scale=full", f"variant={variant}")
    assert list(this.stages) == ["nasnet_a"]
    assert not claims.read(this.config).claims


@pytest.fixture(scope="module")
def full() -> Plan:
    return plan(compose.compose(compose.request(["paper=nasnet", "scale=full"]).overrides), 0)


def test_both_searches_train_20_000_children_as_published(full: Plan) -> None:
    """Minibatches of 20 architectures, 5 blocks of 13 operations and 2 ways to combine, rewards on 5,000 images."""
    for name in ("ppo", "random"):
        stage = full.stages[name]
        space, children = stage.module["space"], stage.module["children"]
        assert stage.module["samples"] == stage.data["trials"] == 20_000
        assert stage.data["batch_size"] == 20
        assert stage.data["source"]["val_size"] == 5_000
        assert (space["blocks"], len(space["operations"]), space["combinations"]) == (5, 13, ["add", "concat"])
        assert (children["epochs"], children["network"]["size"]["repeats"]) == (20, 2)
        assert children["schedule"]["_target_"] == "modules.common.schedules.cosine"
    controller = full.stages["ppo"].module
    assert controller["optimizer"] == {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 3.5e-4}
    ppo = controller["ppo"]
    assert (ppo["units"], ppo["clip"], ppo["entropy_weight"], ppo["baseline_decay"]) == (100, 0.2, 1e-5, 0.95)


def test_nasnet_a_trains_on_cifar_10_as_released(full: Plan) -> None:
    for name, drop_path in (("nasnet_a", "scheduled"), ("drop_path", "constant"), ("no_drop_path", "none")):
        stage = full.stages[name]
        network, optimizer = stage.module["network"], stage.module["optimizer"]
        assert (optimizer["_target_"], optimizer["lr"]) == ("torch.optim.SGD", 0.025)
        assert (optimizer["momentum"], optimizer["weight_decay"]) == (0.9, 5e-4)
        assert (stage.trainer["max_epochs"], stage.trainer["gradient_clip_val"]) == (600, 5)
        assert stage.data["batch_size"] == stage.reference_batch == 32
        assert (network["size"]["repeats"], network["size"]["penultimate"]) == (6, 768)
        assert network["regularisers"]["drop_path"]["keep"] == 0.6
        assert (stage.module["drop_path"]["kind"], stage.module["loss"]["auxiliary_weight"]) == (drop_path, 0.4)
        assert network["norm"]["eps"] == 1e-5
        enlarged, mirrored, cutout = stage.data["augment"]
        assert (enlarged["size"], cutout["side"]) == (40, 16)
        assert mirrored["_target_"].endswith("HorizontalFlip")


@pytest.mark.parametrize(
    ("variant", "size", "rate", "decay", "keep"), [("mobile", 224, 2.0, 4e-5, None), ("large", 331, 1.5, 5e-5, 0.7)]
)
def test_nasnet_a_trains_on_imagenet_as_released(
    variant: str, size: int, rate: float, decay: float, keep: float | None, make_plan: Callable[..., Plan]
) -> None:
    stage = make_plan("paper=nasnet", "scale=full", f"variant={variant}").stages["nasnet_a"]
    optimizer, network = stage.module["optimizer"], stage.module["network"]
    assert (optimizer["_target_"], optimizer["alpha"], optimizer["eps"]) == ("timm.optim.RMSpropTF", 0.9, 1.0)
    assert (optimizer["lr"], optimizer["weight_decay"]) == (pytest.approx(rate), decay)
    assert (stage.data["image_size"], stage.trainer["gradient_clip_val"]) == (size, 10)
    assert (stage.module["loss"]["label_smoothing"], stage.module["average_decay"]) == (0.1, 0.9999)
    assert (network["regularisers"]["dropout"], network["norm"]["momentum"]) == (0.5, pytest.approx(1 - 0.9997))
    assert stage.module["drop_path"]["kind"] == ("scheduled" if keep else "none")
    assert network["regularisers"].get("drop_path", {}).get("keep") == keep


def test_published_numbers_hang_on_the_networks_they_came_from() -> None:
    """Errors of Tables 1 to 3 as accuracies; parameters in millions."""
    rows = compose.paper_file("nasnet")["published"]
    published = {(row.get("variant"), row["metric"]): row["value"] for row in rows}
    errors = {None: 2.65, "no_cutout": 3.41, "wide": 2.40}
    expected = {(variant, "test/top1"): pytest.approx(100 - error) for variant, error in errors.items()}
    expected |= {("mobile", "test/top1"): 74.0, ("mobile", "test/top5"): 91.6}
    expected |= {("large", "test/top1"): 82.7, ("large", "test/top5"): 96.2}
    millions = {None: 3.3, "wide": 27.6, "mobile": 5.3, "large": 88.9}
    expected |= {(variant, "test/parameters_m"): value for variant, value in millions.items()}
    assert published == expected
    assert {row["stage"] for row in rows} == {"nasnet_a"}
