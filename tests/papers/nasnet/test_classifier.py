"""Training one architecture to the end: auxiliary head, drop path, averaged weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from modules.nasnet.classifier import Growth, Loss, NASNet
from modules.nasnet.networks import DropPath
from tests.papers.nasnet.helpers import (
    parameters,
    small,
)


class Clock:
    """What NASNet asks of a trainer."""

    num_training_batches, max_epochs, current_epoch = 10, 4, 0
    optimizers: Sequence[Any] = ()


@pytest.mark.parametrize(
    ("growth", "expected"),
    [
        (Growth("scheduled"), [0, 0.25, 0.5]),
        (Growth("scheduled", steps=10), [0, 1, 1]),
        (Growth("constant"), [1, 1, 1]),
        (Growth("none"), [0, 0, 0]),
    ],
)
def test_progress_of_drop_path(growth: Growth, expected: list[float]) -> None:
    module = NASNet(10, small(drop_path=DropPath(0.6)), drop_path=growth)
    module._trainer = Clock()  # type: ignore[assignment]
    actual = []
    for epoch in (0, 1, 2):
        module._trainer.current_epoch = epoch  # type: ignore[union-attr, misc]
        module.on_train_batch_start(None, 0)
        actual.append(module.network.progress)
    assert actual == pytest.approx(expected)


def test_drop_path_grows_with_every_step() -> None:
    module = NASNet(10, small(drop_path=DropPath(0.6)), drop_path=Growth("scheduled"))
    module._trainer = Clock()  # type: ignore[assignment]
    module.on_train_batch_start(None, 5)
    assert module.network.progress == pytest.approx(5 / 40)


def test_the_auxiliary_head_changes_training_alone() -> None:
    with_head, without = small(auxiliary=True).eval(), small().eval()
    without.load_state_dict({k: v for k, v in with_head.state_dict().items() if not k.startswith("auxiliary")})
    x = torch.randn(2, 1, 12, 12)
    assert torch.equal(with_head(x), without(x))
    assert with_head.auxiliary_at == 2  # normal, reduction, normal | reduction, normal
    module = NASNet(10, with_head.train(), drop_path=Growth("none"), loss=Loss(auxiliary_weight=0.0))
    module.training_step((x, torch.tensor([1, 2])), 0).backward()
    assert all(float(p.grad.abs().max()) == 0 for p in with_head.auxiliary.parameters() if p.grad is not None)  # type: ignore[union-attr]


def test_averaged_weights() -> None:
    """Moved by optimiser steps, (1 + n) / (10 + n) for young averages; evaluation uses them, training does not."""
    module = NASNet(10, small(), drop_path=Growth("none"), average_decay=0.9999)
    before = module.network.fc.weight.detach().clone()

    def step() -> None:
        with torch.no_grad():
            module.network.fc.weight.add_(1.0)

    optimizer = torch.optim.SGD(module.network.parameters(), 0.0)
    module.optimizer_step(0, 0, optimizer, step)
    assert module.average is not None
    averaged = module.average.values()["fc.weight"]
    assert torch.allclose(averaged, before + (1 - 1 / 10), atol=1e-6)
    module.optimizer_step(0, 1, optimizer, step)
    assert torch.allclose(averaged, before + 0.9 * 2 / 11 + 2 * 9 / 11, atol=1e-6)
    x = torch.randn(2, 1, 12, 12)
    module.eval()
    actual = module(x)
    with torch.no_grad():
        module.network.fc.weight.copy_(averaged)
    assert torch.allclose(actual, module.network(x), atol=1e-5)
    assert sum(p.numel() for p in module.parameters()) == parameters(module.network)


def test_weight_decay_is_on_weights_alone() -> None:
    groups = NASNet(10, small(auxiliary=True)).trained()
    assert all(p.dim() > 1 for p in groups[0]["params"])
    assert groups[1]["weight_decay"] == 0
    assert sum(len(g["params"]) for g in groups) == len(list(small(auxiliary=True).parameters()))
