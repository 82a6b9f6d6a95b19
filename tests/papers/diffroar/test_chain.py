"""Stages on end: an original, its ranking, and networks trained again on it; also on two processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.running import engine, training
from experiments.running.plan import Plan
from modules.common.attributions import logit_gradient


def test_rankings_are_those_of_the_original_and_reach_the_retraining(make_plan: Callable[..., Plan]) -> None:
    plan = make_plan("paper=diffroar")
    for name in ("robust", "ranks_robust"):
        engine.ensure(plan, plan.stages[name])
    stored = training.artifacts(plan.stages["ranks_robust"])
    assert {name: (array.shape, array.dtype) for name, array in stored.items()} == {
        **{kind: ((320, 1600), np.dtype("uint16")) for kind in ("logit", "loss")},
        "predicted": ((320,), np.dtype("uint16")),
    }

    model = training.load(plan, "robust").network.eval()
    source = training.build(plan.stages["robust"].data)
    source.setup()
    for first, name in ((0, "train"), (256, "test")):
        x = source.splits[name][0][:32] / 255
        size = logit_gradient(model, x, model(x).argmax(1)).abs().flatten(1)
        assert stored["predicted"][first : first + 32].tolist() == model(x).argmax(1).tolist()
        places = torch.from_numpy(stored["logit"][first : first + 32].astype("int64"))
        ordered = size.gather(1, places.argsort(1))
        assert bool((ordered.diff(dim=1) <= 1e-7).all())  # largest first

    metrics = engine.ensure(plan, plan.stages["retrain_robust_5"]).metrics
    assert {"test/diffroar_logit", "test/diffroar_logit_std", "test/power"} <= set(metrics)
    assert metrics["test/n"] == 64


@pytest.mark.slow
def test_two_processes_train_and_measure_what_one_does(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    """An adversarially trained network with batch norms, whose attack looks at one image at a time."""
    seen = []
    for trainer in ("cpu", "ddp_cpu"):
        network = "{_target_:modules.common.networks.ConvNet,in_channels:1,input_size:40,widths:[4,8],strides:[2,2]}"
        plan = make_plan(
            "paper=diffroar",
            f"trainer={trainer}",
            "stages.robust.data.source.test_size=63",
            f"+stages.robust.module.network={network}",
            "~stages.robust.module.network.name",
            "~stages.robust.module.network.shape",
        )
        metrics = engine.ensure(plan, plan.stages["robust"]).metrics
        seen.append(metrics)
    assert seen[0]["test/n"] == seen[1]["test/n"] == 63
    assert seen[1] == pytest.approx(seen[0], rel=1e-3)


@pytest.mark.slow
def test_retraining_on_two_processes(make_plan: Callable[..., Plan]) -> None:
    seen = []
    for trainer in ("cpu", "ddp_cpu"):
        plan = make_plan("paper=diffroar", f"trainer={trainer}")
        seen.append(engine.ensure(plan, plan.stages["retrain_random_5"]).metrics)
    assert seen[1] == pytest.approx(seen[0], rel=1e-4)
