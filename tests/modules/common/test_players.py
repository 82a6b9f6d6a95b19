"""Players: one optimiser each, and gradients that pass through the others without staying."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from modules.common.players import Players, held
from modules.common.schedules import Schedule


class Two(Players):
    def __init__(self, optimizer: object = None, schedule: Schedule | None = None) -> None:
        super().__init__(optimizer, schedule)  # type: ignore[arg-type]
        self.first, self.second, self.third = nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(1, 1)
        self.second.bias.requires_grad_(False)

    def players(self) -> list[list[nn.Module]]:
        return [[self.first], [self.second, self.third]]


def test_each_player_has_an_optimiser_of_what_it_trains() -> None:
    module = Two(partial(torch.optim.SGD, lr=0.1))
    module.lr_scale = 2.0
    first, second = module.configure_optimizers()
    assert [id(p) for g in first.param_groups for p in g["params"]] == [id(p) for p in module.first.parameters()]
    assert sum(p.numel() for g in second.param_groups for p in g["params"]) == 2 + 2  # not the bias that is fixed
    assert first.param_groups[0]["lr"] == second.param_groups[0]["lr"] == 0.2
    with pytest.raises(ValueError, match="Two is to be fitted but has no optimizer"):
        Two().configure_optimizers()


def test_gradients_pass_through_a_network_that_is_held() -> None:
    module = Two()
    x = torch.randn(3, 2, requires_grad=True)
    with held(module.second, module.third):
        module.third(module.second(module.first(x))).sum().backward()
    assert module.first.weight.grad is not None
    assert module.second.weight.grad is module.third.weight.grad is None
    assert module.second.weight.requires_grad
    assert not module.second.bias.requires_grad  # it was fixed before


def test_a_network_is_free_again_after_an_error() -> None:
    module = Two()
    with pytest.raises(ZeroDivisionError), held(module.first):
        raise ZeroDivisionError
    assert all(p.requires_grad for p in module.first.parameters())


def test_all_players_follow_one_schedule() -> None:
    module = Two(partial(torch.optim.SGD, lr=0.5), lambda position: 0.5)
    optimizers = module.configure_optimizers()
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        optimizers=optimizers, num_training_batches=1, max_epochs=1, current_epoch=0
    )
    module.on_train_batch_start(None, 0)
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimizers] == [0.25, 0.25]
    assert (module.automatic_optimization, module.partial_backward) == (False, True)
    with pytest.raises(NotImplementedError, match="Players does not name its players"):
        Players(partial(torch.optim.SGD, lr=0.5)).configure_optimizers()
