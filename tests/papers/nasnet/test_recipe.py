"""What the recipes say: rates, arms that differ in one thing, variants."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.config import claims
from experiments.running import training
from experiments.running.plan import Plan
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
    assert large.trainer["max_epochs"] == round(large.module["drop_path_steps"] * 1600 / 1_281_167)


def test_arms_differ_in_the_method_alone(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=nasnet", "scale=mini").stages
    ppo, random = stages["ppo"], stages["random"]
    assert ppo.data == random.data
    assert (ppo.needs, ppo.trainer) == (random.needs, random.trainer)
    shared = {k: v for k, v in ppo.module.items() if k in random.module and k != "method"}
    assert shared == {k: v for k, v in random.module.items() if k != "method"}
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
    plan = make_plan("paper=nasnet", "scale=full")
    by_ppo, by_random = plan.stages["found"], plan.stages["found_random"]
    assert (by_ppo.module, by_ppo.data, by_ppo.trainer) == (by_random.module, by_random.data, by_random.trainer)
    assert (by_ppo.needs, by_random.needs) == ({"search": "ppo"}, {"search": "random"})
    judged = {s for claim in claims.read(plan.config).claims for s in claims.stages_of(claim, list(plan.stages))}
    assert "ranking" not in judged  # it trains on what was searched on


@pytest.mark.parametrize("variant", ["no_cutout", "wide", "mobile", "large"])
def test_variants_train_one_network(make_plan: Callable[..., Plan], variant: str) -> None:
    plan = make_plan("paper=nasnet", "scale=full", f"variant={variant}")
    assert list(plan.stages) == ["nasnet_a"]
    assert not claims.read(plan.config).claims
