"""The full recipe against the numbers that are known of the paper; what arms share, and what every stage sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from experiments.config import claims, compose
from experiments.running import engine, training
from experiments.running.plan import Plan, plan

VARIANTS = ("", "tbx11k", "tbx11k_14", "vindr_cxr")


@pytest.fixture(scope="module")
def full() -> dict[str, Plan]:
    """By variant."""
    return {variant: compose_full(variant) for variant in VARIANTS}


def compose_full(variant: str) -> Plan:
    lines = ["paper=csr", "scale=full", *([f"variant={variant}"] if variant else [])]
    return plan(compose.compose(compose.request(lines).overrides), 0)


@pytest.mark.parametrize(
    ("variant", "title", "concepts", "classes", "per_class"),
    [
        ("", "ISIC-2017", 4, 3, 133),
        ("tbx11k", "TBX11K", 3, 3, 100),
        ("tbx11k_14", "TBX11K with 14 concepts", 14, 3, 467),
        ("vindr_cxr", "VinDr-CXR", 14, 6, 233),
    ],
)
def test_full_recipes(
    variant: str, title: str, concepts: int, classes: int, per_class: int, full: dict[str, Plan]
) -> None:
    stages = full[variant].stages
    prototypes = stages["prototypes"].module["prototypes"]
    assert (prototypes["concepts"], prototypes["per_concept"], prototypes["channels"]) == (concepts, 100, 256)
    assert stages["concepts"].module["network"]["concepts"] == concepts
    assert stages["csr"].module["classes"] == classes
    loss = stages["prototypes"].module["loss"]
    assert (loss["scale"], loss["gamma"], loss["margin"]) == (20, 1000, 0.1)
    data = training.build(stages["concepts"].data)
    assert (data.collection.title, data.collection.concepts, data.collection.classes) == (title, concepts, classes)
    assert stages["protopnet_warm"].module["network"]["per_class"] == per_class


def test_epochs_rates_and_batches_are_the_replications(full: dict[str, Plan]) -> None:
    stages = full[""].stages
    expected = {"concepts": (50, 32, 1e-4), "prototypes": (30, 128, 1e-4), "csr": (50, 32, 1e-3), "cbm": (50, 32, 1e-3)}
    for name, (epochs, batch, rate) in expected.items():
        stage = stages[name]
        assert stage.trainer["max_epochs"] == epochs, name
        assert stage.data["batch_size"] == stage.reference_batch == batch, name
        assert stage.module["optimizer"]["_target_"] == "torch.optim.AdamW", name
        assert stage.module["optimizer"]["lr"] == rate, name
    assert stages["concepts"].data["image_size"] == 224
    assert (stages["concepts"].data["mirror"], stages["protopnet_push"].data["mirror"]) == (True, False)
    doctor = stages["csr"].module["doctor"]
    assert (doctor["alpha"], doctor["gate"]) == (0.2, 0.3)


def test_what_lies_on_frozen_maps_is_not_rounded(full: dict[str, Plan]) -> None:
    stages = full[""].stages
    for name in ("encode", "prototypes", "atlas", "csr", "csr_untrained", "refined", "cbm"):
        assert stages[name].trainer["precision"] == "32-true", name


def test_published_rows_hang_on_their_data() -> None:
    rows = {
        (row["variant"], row["stage"], row["metric"]): row["value"] for row in compose.paper_file("csr")["published"]
    }
    assert rows == {
        ("default", "csr", "test/f1"): 71.5,
        ("default", "cbm_joint", "test/f1"): 45.5,
        ("default", "protopnet", "test/f1"): 38.5,
        ("tbx11k_14", "csr", "test/f1"): 94.4,
        ("tbx11k_14", "cbm_joint", "test/f1"): 88.6,
        ("tbx11k_14", "protopnet", "test/f1"): 94.1,
        ("tbx11k_14", "refined", "test/f1"): 94.0,
        ("tbx11k_14", "csr", "test/f1_rejection"): 95.1,
        ("tbx11k_14", "cbm_joint", "test/pointing"): 55.1,
        ("tbx11k_14", "csr", "test/pointing"): 60.9,
        ("tbx11k_14", "refined", "test/pointing"): 79.5,
        ("vindr_cxr", "csr", "test/f1"): 54.6,
        ("vindr_cxr", "cbm_joint", "test/f1"): 50.1,
    }


def test_arms_share_weights_and_pictures(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=csr", "scale=mini", seed=3)
    stages = plan.stages
    joint: Any = training.construct(plan, stages["cbm_joint"])
    concepts: Any = training.construct(plan, stages["concepts"])
    theirs = joint.network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in concepts.network.state_dict().items())
    drawn = [training.construct(plan, stages[name]).state_dict() for name in ("prototypes", "untrained")]  # type: ignore[union-attr]
    assert all(torch.equal(drawn[0][name], other[name]) for other in drawn[1:] for name in drawn[0])
    sources = [stage.data["source"] for name, stage in stages.items() if name in ("concepts", "encode", "cbm_joint")]
    sources += [stage.data["source"]["source"] for stage in stages.values() if stage.feeds]
    assert len(sources) == len(stages)
    assert all(source == sources[0] for source in sources)
    heads = ("csr", "refined", "refined_at_random", "csr_untrained")
    options = [{k: v for k, v in stages[name].module.items() if k not in ("discard", "optimizer")} for name in heads]
    assert all(option == options[0] for option in options)
    optimizers = [{k: v for k, v in stages[name].module["optimizer"].items() if k != "lr"} for name in (*heads, "cbm")]
    assert all(optimizer == optimizers[0] for optimizer in optimizers)  # rates are of each arm's own, see tune


def test_each_scale_has_its_main_claim(make_plan: Callable[..., Plan]) -> None:
    for scale, metric in (("mini", "csr/test/f1_spatial"), ("full", "csr/test/f1_rejection")):
        main = claims.read(make_plan("paper=csr", f"scale={scale}").config).main
        assert main is not None
        assert main.better == metric


def test_rates_of_mini_are_chosen_on_pictures_that_no_stage_learns_from(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=csr", "scale=mini")
    grid = plan.config["tune"]
    assert grid["arms"] == ["csr", "csr_untrained", "cbm"]
    assert grid["keys"] == [f"stages.{arm}.module.optimizer.lr" for arm in grid["arms"]]
    assert plan.config["pictures"]["val_per_class"] == 10
    for name in ("csr", "csr_untrained", "cbm", "protopnet"):
        trainer = plan.stages[name].trainer
        assert trainer["check_val_every_n_epoch"] == trainer["max_epochs"]


def test_interaction_in_training_is_asked_where_the_bar_may_be_learnt(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=csr", "scale=mini").stages
    pruned = make_plan("paper=csr", "scale=mini", "variant=pruned").stages
    for name in ("atlas", "refined", "refined_at_random"):
        assert (stages[name].fit, pruned[name].fit) == (False, True)
    assert pruned["prototypes"].module["seeded"]
    heads = [pruned[name].module["optimizer"] for name in ("csr", "refined", "refined_at_random")]
    assert all(head == heads[0] for head in heads)


@pytest.mark.slow
def test_two_processes_compute_what_one_does(make_plan: Callable[..., Plan]) -> None:
    """Losses and counts: gamma = 1000 makes much of rounding, and barely trained classes are nearly tied."""
    actual: dict[str, list[dict[str, float]]] = {}
    for trainer in ("cpu", "ddp_cpu"):
        plan = make_plan("paper=csr", f"trainer={trainer}")
        for name in ("concepts", "encode", "prototypes", "csr"):
            actual.setdefault(name, []).append(engine.ensure(plan, plan.stages[name]).metrics)
    one, two = actual["concepts"]
    assert two == pytest.approx(one, abs=1e-5)
    for name, metrics in (("prototypes", ("train/loss",)), ("csr", ("train/loss", "test/pairs", "test/chance"))):
        one, two = actual[name]
        assert {m: two[m] for m in metrics} == pytest.approx({m: one[m] for m in metrics}, rel=1e-3), name
    assert [metrics["test/n"] for metrics in actual["csr"]] == [40, 40]
