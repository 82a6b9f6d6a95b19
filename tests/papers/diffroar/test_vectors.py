"""The released notebook's vectors: its finding in small, and steps on distinct rows that are steps on the batch."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from experiments.running import engine
from experiments.running.plan import Plan
from modules.common.adversarial import AdversarialClassifier, Attack
from modules.diffroar.distinct import DistinctClassifier, distinct_rows
from modules.diffroar.networks import classifier


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


def test_distinct_rows_count_how_often_a_pair_stands_in_a_batch() -> None:
    x = torch.tensor([[1.0, 0], [0, -1], [1, 0], [1, 0]]).view(4, 1, 1, 2)
    rows = distinct_rows(x, torch.tensor([1, 0, 1, 0]))
    assert rows.x.shape == (3, 1, 1, 2)
    found = {(*row.flatten().tolist(), int(y)): int(n) for row, y, n in zip(*rows, strict=True)}
    assert found == {(0.0, -1.0, 0): 1, (1.0, 0.0, 0): 1, (1.0, 0.0, 1): 2}


@pytest.mark.parametrize("attack", [None, Attack(0.45, norm="linf", steps=8, rate=2.0, low=-1.0)])
def test_a_step_on_distinct_rows_is_the_step_on_the_batch(
    attack: Attack | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notebook's x = y e_j: gradients, loss and accuracy agree with those of all 250 rows."""
    signal = torch.randint(10, (250,), generator=torch.Generator().manual_seed(0))
    y = torch.randint(2, (250,), generator=torch.Generator().manual_seed(1))
    x = torch.zeros(250, 10).scatter_(1, signal[:, None], 2.0 * y[:, None] - 1).view(250, 1, 1, 10)
    batch = SimpleNamespace(x=x, y=y)
    spec = SimpleNamespace(mean=(0.0,), std=(1.0,))
    trainer = SimpleNamespace(datamodule=SimpleNamespace(spec=spec))

    gradients = []
    tracked = []
    for kind in (AdversarialClassifier, DistinctClassifier):
        monkeypatch.setattr(kind, "trainer", trainer)
        torch.manual_seed(0)
        module = kind(classifier("mlp", (1, 1, 10), 2, [200]), 2, attack)
        module.training_step(batch, 0).backward()
        gradients.append([parameter.grad for parameter in module.parameters()])
        tracked.append({name: float(total) / module._count for name, total in module._sums.items()})
    for whole, distinct in zip(*gradients, strict=True):
        assert torch.allclose(whole, distinct, atol=1e-6)
    assert set(tracked[0]) == {"loss", "top1"}
    assert tracked[1] == pytest.approx(tracked[0], abs=1e-4)
