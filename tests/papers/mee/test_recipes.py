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
ARMS = ["maf", "dlle", "full"]


@pytest.mark.parametrize("scale", ["mini", "smoke"])
def test_arms_differ_in_their_terms_alone(make_plan: Make, scale: str) -> None:
    stages = make_plan("paper=mee", f"scale={scale}", seed=3).stages
    terms = {"neighbours", "mixing", "entropy"}
    for name in stages.keys() & set(ARMS):
        stage, baseline = stages[name], stages["maf"]
        assert stage.data == baseline.data
        assert stage.trainer == baseline.trainer
        assert stage.start_like == baseline.start_like == "gan"
        assert all(stage.module[key] == value for key, value in baseline.module.items() if key not in terms)


def test_arms_share_their_starting_weights(make_plan: Make) -> None:
    plan = make_plan("paper=mee", seed=3)
    engine.ensure(plan, plan.stages["judge"])
    modules: dict[str, Any] = {name: training.construct(plan, plan.stages[name]) for name in ("maf", "full")}
    for part in ("generator", "embedding"):
        ours, theirs = (getattr(module, part).state_dict() for module in modules.values())
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_each_scale_has_its_main_claim(make_plan: Make) -> None:
    settings = {("mini", None): "full", ("mini", "ring"): "full", ("full", None): "full", ("full", "cifar10"): "full"}
    for (scale, variant), stage in settings.items():
        lines = [f"variant={variant}"] if variant else []
        main = claims.read(make_plan("paper=mee", f"scale={scale}", *lines).config).main
        assert main is not None, (scale, variant)
        assert str(main.better).split("/")[0] == stage
        assert str(main.than).split("/")[0] == "maf"


def test_a_baseline_that_covers_most_modes_leaves_nothing_to_claim(make_plan: Make) -> None:
    """Each claim on modes asks that its own baseline covers fewer than 800 of the 1,000."""
    for claim in claims.read(make_plan("paper=mee", "scale=mini").config).claims:
        if str(claim.better).endswith("/test/kl"):
            baseline = str(claim.than).split("/")[0]
            assert f"{baseline}/test/modes < 800" in claim.requires


def test_the_ring_runs(make_plan: Make) -> None:
    sizes = [f"stages.{n}.{k}" for n in ("maf", "full") for k in ("data.train_size=512", "trainer.max_epochs=2")]
    plan = make_plan("paper=mee", "scale=mini", "variant=ring", *sizes)
    for stage in plan.stages.values():
        metrics = engine.ensure(plan, stage).metrics
        assert metrics["test/n"] == 10_000
        assert {"test/modes", "test/kl", "test/high_quality", "test/spread"} <= metrics.keys()


@pytest.mark.slow
@pytest.mark.parametrize("variant", [[], ["variant=released"]])
def test_an_arm_on_two_processes_is_the_arm_on_one(make_plan: Make, variant: list[str]) -> None:
    """Noise is drawn for the whole batch, and a code's nearest neighbour may come of the other process's images."""
    short = [
        "stages.*.trainer.max_epochs=1",
        "stages.full.data.train_size=256",
        "stages.full.data.test_size=301",
        "stages.full.module.entropy.ramp=0",
        "stages.full.module.entropy.weight=0.1",
    ]
    weights, metrics = [], []
    for trainer in ("cpu", "ddp_cpu"):
        plan = make_plan("paper=mee", "scale=mini", *variant, *short, f"trainer={trainer}", "trainer.precision=64-true")
        engine.ensure(plan, plan.stages["judge"])
        stage = plan.stages["full"]
        metrics.append(engine.ensure(plan, stage).metrics)
        weights.append(torch.load(stage.directory / "last.ckpt", weights_only=True)["state_dict"])
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3, abs=1e-6)
    assert all(torch.allclose(weights[0][k].double(), weights[1][k].double(), atol=1e-6) for k in weights[0])
