"""Two processes train what one trains: batches by cluster, and classes left out of the denominator of all images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from experiments import engine
from experiments.plan import Plan


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["simclr_masked", "simclr_strict"])
def test_a_stage_on_two_processes_is_the_stage_on_one(make_plan: Callable[..., Plan], stage: str) -> None:
    weights, metrics = [], []
    for trainer in ("cpu", "ddp_cpu"):
        sgd = f"stages.{stage}.module.optimizer={{_target_:torch.optim.SGD,_partial_:true,lr:0.03}}"
        plan = make_plan("paper=g_simclr", f"trainer={trainer}", sgd, f"stages.{stage}.trainer.max_epochs=1")
        for needed in plan.stages[stage].predecessors:
            for name in (*plan.stages[needed].predecessors, needed):
                engine.ensure(plan, plan.stages[name])
        metrics.append(engine.ensure(plan, plan.stages[stage]).metrics)
        weights.append(torch.load(plan.stages[stage].directory / "last.ckpt", weights_only=True)["state_dict"])
    assert metrics[0]["test/n"] == metrics[1]["test/n"] == 100
    if stage == "simclr_masked":  # elsewhere the clusters were made by an autoencoder trained on two processes
        assert metrics[1] == pytest.approx(metrics[0], rel=1e-4, abs=1e-4)
        assert all(torch.allclose(weights[0][k].float(), weights[1][k].float(), atol=1e-5) for k in weights[0])
    assert metrics[1].get("train/same_cluster", 0) == 0
