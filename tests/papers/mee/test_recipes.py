"""The recipes: published sizes and rates, what arms share, and two processes against one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from experiments.config import claims
from experiments.running import engine, training
from experiments.running.plan import Plan
from modules.common.schedules import Position

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


def test_the_released_recipe(make_plan: Make) -> None:
    plan = make_plan("paper=mee", "scale=full", "variant=cifar10")
    stages = plan.stages
    for name in ARMS:
        stage = stages[name]
        module = stage.module
        assert (stage.trainer["max_epochs"], stage.data["batch_size"], module["critic_steps"]) == (1800, 64, 3)
        assert module["optimizer"] | {"_partial_": True} == {
            "_target_": "torch.optim.Adam",
            "_partial_": True,
            "lr": 1e-4,
            "betas": [0.0, 0.999],
        }
        schedule = training.build(module["schedule"])
        factors = [schedule(Position(epoch, 0, 781, 1800)) for epoch in (0, 49, 50, 100, 1799)]
        assert factors == pytest.approx([1, 1, 0.9, 0.81, 0.9**35])
    entropy = training.build(stages["full"].module["entropy"])
    assert [entropy.weight_at(epoch) for epoch in (0, 50, 100)] == pytest.approx([0, 2.5e-4, 5e-4])
    assert entropy.real.codes.shape == (1024, 16)
    released = make_plan("paper=mee", "scale=full", "variant=cifar10_released").stages["full"]
    assert training.build(released.module["entropy"]).real.codes.shape == (1024, 64, 16)
    network = training.build(stages["maf"].module["generator"])
    assert sum(p.numel() for p in network.parameters()) == 3_153_664


def test_the_recipe_of_celeba(make_plan: Make) -> None:
    stages = make_plan("paper=mee", "scale=full").stages
    assert {name for name, stage in stages.items() if stage.fit} == {"maf", "full"}
    stage = stages["full"]
    steps = stage.trainer["max_epochs"] * -(-202_599 // stage.data["batch_size"])
    assert steps == pytest.approx(520_000, rel=0.005)
    assert stage.module["optimizer"]["betas"] == [0.5, 0.999]
    assert (stage.module["generator"]["width"], stage.module["embedding"]["outcomes"]) == (32, 51)


def test_each_scale_has_its_main_claim(make_plan: Make) -> None:
    settings = {("mini", None): "full", ("mini", "ring"): "full", ("full", None): "full", ("full", "cifar10"): "full"}
    for (scale, variant), stage in settings.items():
        lines = [f"variant={variant}"] if variant else []
        main = claims.read(make_plan("paper=mee", f"scale={scale}", *lines).config).main
        assert main is not None, (scale, variant)
        assert str(main.better).split("/")[0] == stage
        assert str(main.than).split("/")[0] == "maf"


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
