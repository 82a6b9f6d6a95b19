"""Two processes train and measure what one does, for one telling stage of a paper each; others have tests of their own.

Where a recipe has AdamW, plain SGD stands for it here: Adam's first steps follow the sign of a gradient, and rounding
decides signs. NASNet-A is here without drop path and Inception-ResNet without dropout: what is dropped, each process
draws for itself, so that two cannot equal one.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from experiments.running import engine
from experiments.running.plan import Plan, Stage

ODD = "data.test_size=99"  # the last image goes to one of the two
SGD = "module.optimizer={_target_:torch.optim.SGD,_partial_:true,lr:0.03}"
SLOW = "stages.*.module.optimizer.lr=0.001"  # the stages before it too: at the recipe's rates rounding grows
DOUBLE = "trainer.precision=64-true"  # two processes add up in another order: rounding grows over an epoch's steps


def everything_before(plan: Plan, stage: Stage) -> list[Stage]:
    """What a stage needs and is fed by, in the order they run."""
    wanted = set(stage.predecessors)
    for name, earlier in reversed(plan.stages.items()):
        if name in wanted:
            wanted |= set(earlier.predecessors)
    return [earlier for name, earlier in plan.stages.items() if name in wanted]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("paper", "name", "options"),
    [
        ("meal_v2", "student", ["data.train_size=64", ODD, SLOW]),
        ("iformer", "ramp", ["data.source.test_size=99", SGD]),
        ("inception_next", "inception", [ODD, SGD]),
        ("transhp", "transhp", ["data.source.test_size=59", SGD]),
        ("relabel", "relabel", ["data.counts.test_singles=99", "module.optimizer.lr=0.1"]),
        ("off_the_shelf", "svm", []),
        ("nasnet", "no_drop_path", ["data.train_size=100", ODD, DOUBLE]),
        ("nasnet", "ppo", []),
        ("inception_v4", "inception_resnet_v1", ["module.network.dropout=0", ODD, DOUBLE]),
        ("reassess_imagenet", "network", ["data.train_size=100", "data.test_size=149", "module.optimizer.lr=0.001"]),
        ("bagel", "weak", ["data.test_size=299", DOUBLE]),
    ],
)
def test_a_stage_on_two_processes_is_the_stage_on_one(
    paper: str, name: str, options: list[str], make_plan: Callable[..., Plan]
) -> None:
    """Same weights after an epoch, and the same metrics."""
    weights, metrics = [], []
    lines = [option if option.startswith(("trainer.", "stages.")) else f"stages.{name}.{option}" for option in options]
    for trainer in ("cpu", "ddp_cpu"):
        plan = make_plan(f"paper={paper}", f"trainer={trainer}", *lines)
        stage = plan.stages[name]
        for earlier in everything_before(plan, stage):
            engine.ensure(plan, earlier)
        metrics.append(engine.ensure(plan, stage).metrics)
        checkpoint = stage.directory / "last.ckpt"
        weights.append(torch.load(checkpoint, weights_only=True)["state_dict"] if checkpoint.exists() else {})

    # Batch norm that is asked before any training has the statistics of a process's own share.
    one, two = ({k: v for k, v in values.items() if not k.endswith("_initial")} for values in metrics)
    assert one
    assert two == pytest.approx(one, rel=1e-4, abs=1e-3)
    assert set(weights[0]) == set(weights[1])
    assert all(torch.allclose(weights[0][k].float(), weights[1][k].float(), atol=1e-5) for k in weights[0])
