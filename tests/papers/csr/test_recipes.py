"""The recipes: published sizes, what arms share, and what every stage sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from experiments.config import claims
from experiments.running import engine, training
from experiments.running.plan import Plan


@pytest.mark.parametrize(("variant", "concepts", "classes"), [(None, 14, 3), ("vindr_cxr", 14, 6), ("isic2017", 4, 3)])
def test_full_recipes(variant: str | None, concepts: int, classes: int, make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=csr", "scale=full", *([f"variant={variant}"] if variant else [])).stages
    prototypes = stages["prototypes"].module["prototypes"]
    assert (prototypes["concepts"], prototypes["per_concept"], prototypes["channels"]) == (concepts, 100, 256)
    assert stages["concepts"].module["network"]["concepts"] == concepts
    assert stages["csr"].module["classes"] == classes
    loss = stages["prototypes"].module["loss"]
    assert (loss["scale"], loss["gamma"], loss["margin"]) == (20, 1000, 0.1)
    assert {name: stages[name].trainer["max_epochs"] for name in ("concepts", "prototypes", "csr")} == {
        "concepts": 50,
        "prototypes": 30,
        "csr": 50,
    }
    data = training.build(stages["concepts"].data)
    assert (data.collection.concepts, data.collection.classes) == (concepts, classes)
    assert stages["protopnet_warm"].module["network"]["per_class"] == 100 * concepts // classes + (variant is None)


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
    options = [{k: v for k, v in stages[name].module.items() if k != "discard"} for name in heads]
    assert all(option == options[0] for option in options)


def test_each_scale_has_its_main_claim(make_plan: Callable[..., Plan]) -> None:
    for scale, metric in (("mini", "csr/test/f1_spatial"), ("full", "csr/test/f1_rejection")):
        main = claims.read(make_plan("paper=csr", f"scale={scale}").config).main
        assert main is not None
        assert main.better == metric


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
