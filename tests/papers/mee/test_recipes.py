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
ARMS = ["maf", "dlle", "full", "variance"]
TUNED = ("optimizer",)  # each arm's own rate


@pytest.mark.parametrize("scale", ["mini", "smoke"])
def test_arms_differ_in_their_terms_alone(make_plan: Make, scale: str) -> None:
    stages = make_plan("paper=mee", f"scale={scale}", seed=3).stages
    for name in stages.keys() & set(ARMS):
        stage, baseline = stages[name], stages["maf"]
        assert stage.data == baseline.data
        assert stage.trainer == baseline.trainer
        assert stage.start_like == baseline.start_like == "gan"
        assert all(stage.module[key] == value for key, value in baseline.module.items() if key not in ("terms", *TUNED))
        assert stage.module["terms"]["mixing"] == baseline.module["terms"]["mixing"]

    full, variance = (stages[name].module["terms"] for name in ("full", "variance"))
    assert variance == {**full, "entropy": {**full["entropy"], "estimator": "released"}}
    maf, packed = stages["maf"], stages["packed"]
    assert (packed.trainer, packed.start_like) == (maf.trainer, maf.start_like)
    twice = {key: 2 * maf.data[key] for key in ("batch_size", "train_size")}  # packs of two, as many and as often
    assert packed.data == {**maf.data, **twice}
    bodies = [stage.module["embedding"].pop("body") for stage in (maf, packed)]
    assert bodies[1] == {**bodies[0], "channels": 6}
    assert packed.module["embedding"] == {**maf.module["embedding"], "packing": 2}
    for key in ("generator", "evaluation", "critic_steps"):
        assert packed.module[key] == maf.module[key]
    mixings = [training.build(stage.module["terms"]["mixing"]) for stage in (maf, packed)]
    assert mixings[0] == mixings[1]


def test_arms_share_their_starting_weights(make_plan: Make) -> None:
    plan = make_plan("paper=mee", seed=3)
    engine.ensure(plan, plan.stages["judge"])
    modules: dict[str, Any] = {name: training.construct(plan, plan.stages[name]) for name in ("maf", "full")}
    for part in ("generator", "embedding"):
        ours, theirs = (getattr(module, part).state_dict() for module in modules.values())
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_each_scale_has_its_main_claim(make_plan: Make) -> None:
    settings: dict[tuple[str, str | None], set[str]] = {
        ("mini", None): {"full", "maf", "dlle", "variance"},
        ("mini", "released"): {"full", "maf", "dlle"},
        ("mini", "ring"): {"full", "maf"},
        ("full", None): {"full", "maf"},
        ("full", "cifar10"): {"full", "maf"},
    }
    for (scale, variant), arms in settings.items():
        lines = [f"variant={variant}"] if variant else []
        made = make_plan("paper=mee", f"scale={scale}", *lines)
        main = claims.read(made.config).main
        assert main is not None, (scale, variant)
        assert set().union(*(part.arms(made.stages) for part in main.parts())) == arms


def test_there_is_a_collapse_that_can_be_repaired_or_nothing_is_claimed(make_plan: Make) -> None:
    """Each claim on modes asks that the baseline covers fewer than 800 of the 1,000, and packing 100 more than it."""
    every = claims.read(make_plan("paper=mee", "scale=mini").config).claims
    claimed = [claim for claim in every if str(claim.better).endswith("/test/kl")]
    assert len(claimed) == 2
    for claim in claimed:
        assert {"maf/test/modes < 800", "packed/test/modes > maf/test/modes + 100"} <= set(claim.requires)


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
        "stages.full.module.terms.entropy.ramp=0",
        "stages.full.module.terms.entropy.weight=0.1",
        "stages.full.module.optimizer.lr=0.0005",  # as before its tuning: at a higher rate rounding grows
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
