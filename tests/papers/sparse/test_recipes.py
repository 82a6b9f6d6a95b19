"""The recipes: what arms share, the main claims, and two processes against one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from experiments.config import claims
from experiments.running import engine, training
from experiments.running.plan import Plan

Make = Callable[..., Plan]
ARMS = ("sparse", "supervised", "updates", "pseudo", "generated")
RATES = {"module.optimizer.lr", "module.classifier_optimizer.lr"}  # each arm's own, as tuned


def differences(one: Any, other: Any, path: str = "") -> set[str]:
    """Paths at which two configurations differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {
            p for key in one.keys() | other.keys() for p in differences(one.get(key), other.get(key), f"{path}.{key}")
        }
    return set() if one == other else {path[1:]}


@pytest.mark.parametrize("scale", ["full", "mini", "smoke"])
def test_arms_differ_in_one_number_and_their_rates_each(make_plan: Make, scale: str) -> None:
    stages = make_plan("paper=sparse", f"scale={scale}").stages
    expected = {
        "supervised": {"data.mu"},
        "updates": {"data._target_"},
        "pseudo": {"module._target_"},
        "generated": {"module.rules.translating.from_noise"},
    }
    for name, paths in expected.items():
        ours, theirs = (
            {part: getattr(stages[n], part) for part in ("data", "module", "trainer")} for n in (name, "sparse")
        )
        assert differences(ours, theirs) - RATES == paths
        assert stages[name].start_like == "sparse"


@pytest.mark.parametrize("scale", ["full", "mini"])
def test_every_arm_has_as_many_labelled_batches(make_plan: Make, scale: str) -> None:
    plan = make_plan("paper=sparse", f"scale={scale}")
    counts = set()
    for name in (*ARMS, "sgan"):
        data = plan.stages[name].data
        counts.add((plan.stages[name].trainer["max_epochs"], data["passes"], data["per_class"], data["batch_size"]))
    assert len(counts) == 1


def test_arms_share_their_starting_weights_and_labelled_images(make_plan: Make) -> None:
    plan = make_plan("paper=sparse", seed=3)
    engine.ensure(plan, plan.stages["judge"])
    states = [training.construct(plan, plan.stages[name]).state_dict() for name in ARMS]
    assert all(torch.equal(value, other[name]) for other in states[1:] for name, value in states[0].items())
    sets = [training.construct_data(plan, plan.stages[name]) for name in (*ARMS, "sgan")]
    for data in sets:
        data.setup()
    assert all(torch.equal(data.splits["train"][0], sets[0].splits["train"][0]) for data in sets[1:])


def test_the_preset_fits_mini_too(make_plan: Make) -> None:
    plan = make_plan("paper=sparse", "scale=mini", "+recipe/sparse@_global_=released")
    training.check_plan(plan)
    assert plan.stages["sparse"].module["rules"]["class_loss"] == "binary"


def test_each_setting_has_its_main_claim(make_plan: Make) -> None:
    settings = {
        ("mini", None): "top1_ens",
        ("mini", "pneumonia"): "balanced_ens",
        ("full", None): "top1_ens",
        ("full", "octmnist"): "top1_ens",
    }
    for (scale, variant), metric in settings.items():
        lines = [f"variant={variant}"] if variant else []
        main = claims.read(make_plan("paper=sparse", f"scale={scale}", *lines).config).main
        assert main is not None, (scale, variant)
        assert str(main.better) == f"sparse/test/{metric}"
        against = [str(each.than) for each in main.against().values()]
        assert against == [f"{arm}/test/{metric}" for arm in ("supervised", "updates", "pseudo")]


def test_arms_have_sparses_updates_but_the_papers_control(make_plan: Make) -> None:
    """40 labelled batches an epoch and 24 unlabelled ones; the supervised part has the 40 alone, as in the paper."""
    plan = make_plan("paper=sparse", "scale=mini")
    batches = {}
    for name in ("sparse", "supervised", "updates", "pseudo"):
        data = training.construct_data(plan, plan.stages[name])
        data.setup()
        batches[name] = len(data.train_dataloader())
    assert batches == {"sparse": 64, "supervised": 40, "updates": 64, "pseudo": 64}
    assert len({plan.stages[name].trainer["max_epochs"] for name in batches}) == 1


@pytest.mark.slow
def test_an_arm_on_two_processes_is_the_arm_on_one(make_plan: Make) -> None:
    """Prototypes, quantiles and kept images are those of the global batch; fakes are shared out anew."""
    short = [
        "stages.*.data.source.val_size=64",
        "stages.*.data.source.test_size=101",
        "stages.sparse.trainer.max_epochs=2",
        "stages.sparse.data.unlabelled=100",
        "stages.sparse.data.unlabelled_batch=50",
        "stages.sparse.data.passes=2",
        "stages.sparse.data.mu=2",
    ]
    weights, metrics = [], []
    for trainer in ("cpu", "ddp_cpu"):
        plan = make_plan("paper=sparse", *short, f"trainer={trainer}", "trainer.precision=64-true")
        engine.ensure(plan, plan.stages["judge"])
        stage = plan.stages["sparse"]
        metrics.append(engine.ensure(plan, stage).metrics)
        weights.append(torch.load(stage.directory / "last.ckpt", weights_only=True)["state_dict"])
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3, abs=1e-6)
    assert all(torch.allclose(weights[0][k].double(), weights[1][k].double(), atol=1e-5) for k in weights[0])
