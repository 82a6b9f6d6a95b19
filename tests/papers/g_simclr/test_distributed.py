"""Two processes train what one trains: batches by cluster, and classes left out of the denominator of all images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from experiments.running import engine
from experiments.running.plan import Plan


@pytest.mark.slow
def test_a_step_without_false_negatives_on_two_processes_is_that_on_one(make_plan: Callable[..., Plan]) -> None:
    """Half of the images that are left out of a denominator lie on the other process.

    In double precision: outputs of an untrained network are nearly parallel, and their differences lose digits.
    """
    weights, metrics = [], []
    for trainer in ("cpu", "ddp_cpu"):
        sizes = ["stages.simclr_masked.data.source.train_size=64", "stages.simclr_masked.data.source.test_size=99"]
        sgd = "stages.simclr_masked.module.optimizer={_target_:torch.optim.SGD,_partial_:true,lr:0.03}"
        plan = make_plan("paper=g_simclr", f"trainer={trainer}", "trainer.precision=64-true", sgd, *sizes)
        stage = plan.stages["simclr_masked"]
        metrics.append(engine.ensure(plan, stage).metrics)
        weights.append(torch.load(stage.directory / "last.ckpt", weights_only=True)["state_dict"])
    assert metrics[0]["test/n"] == metrics[1]["test/n"] == 99
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-4)
    assert all(torch.allclose(weights[0][k].double(), weights[1][k].double(), atol=1e-10) for k in weights[0])


@pytest.mark.slow
def test_guided_batches_on_two_processes_hold_each_cluster_once(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=g_simclr", "trainer=ddp_cpu")
    for name in ("autoencoder", "clusters"):
        engine.ensure(plan, plan.stages[name])
    metrics = engine.ensure(plan, plan.stages["simclr_strict"]).metrics
    assert metrics["train/same_cluster"] == 0
    assert metrics["test/n"] == 100
