"""The released notebook's finding, in small: adversarial training moves the gradient into the instance's own block."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from experiments.running import engine
from experiments.running.plan import Plan


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["synthetic", "theory"])
def test_gradients_of_robust_networks_are_in_the_own_block(kind: str, make_plan: Callable[..., Plan]) -> None:
    """A positive control: all networks are right on all vectors, and only the robust one marks the signal."""
    plan = make_plan("paper=diffroar", "scale=mini", seed=1)
    first = {}
    for arm in ("standard", "robust"):
        assert engine.ensure(plan, plan.stages[f"{kind}_{arm}"]).metrics["test/top1"] > 99
        first[arm] = engine.ensure(plan, plan.stages[f"leak_{kind}_{arm}"]).metrics["test/signal_first"]
    assert first["robust"] > 90
    assert first["standard"] < 30
