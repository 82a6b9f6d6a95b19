"""Early stopping: when it ends, and which weights it ends with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from modules.common.stopping import Best, EarlyStopped


def filled(value: float) -> nn.Sequential:
    network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)
    return network


def weight(network: nn.Module) -> float:
    return float(next(network.parameters()).detach())


def test_the_lowest_loss_keeps_its_weights_and_equal_ones_are_no_lower() -> None:
    network = filled(0.0)
    best = Best(network)
    assert float(best.lowest) == torch.inf
    assert not list(best.parameters())
    for value, loss in ((1.0, 3.0), (2.0, 2.0), (3.0, 2.0), (4.0, 5.0)):
        network.load_state_dict(filled(value).state_dict())
        best.observe(loss, network)
    assert (float(best.lowest), int(best.waited)) == (2.0, 2)
    best.restore(network)
    assert weight(network) == 2.0

    again = Best(filled(9.0))
    again.load_state_dict(best.state_dict())  # as of a resumed training
    again.restore(network)
    assert (weight(network), int(again.waited)) == (2.0, 2)


class Two(EarlyStopped):
    """Watches two networks."""

    def __init__(self, patience: int | None) -> None:
        super().__init__()
        self.first, self.second = filled(0.0), filled(0.0)
        self.watch(patience, first=self.first, second=self.second)
        self._trainer: Any = SimpleNamespace(should_stop=False, max_epochs=10, current_epoch=0, optimizers=[])


def epoch(module: Two, value: float, first: float, second: float) -> None:
    for network in (module.first, module.second):
        network.load_state_dict(filled(value).state_dict())
    module.observe(first=torch.tensor(first), second=torch.tensor(second))


def test_it_stops_when_no_network_has_improved_for_as_long_as_its_patience() -> None:
    """The first is at its best after epoch 1 and not looked at again, the second after epoch 3."""
    module = Two(2)
    losses = [(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (0.0, 4.0), (0.0, 4.0)]
    stopped = []
    for number, (first, second) in enumerate(losses, 1):
        epoch(module, float(number), first, second)
        stopped.append(module.trainer.should_stop)
    assert stopped == [False, False, False, False, True]
    assert module.done()
    module.on_train_epoch_end()
    assert (weight(module.first), weight(module.second)) == (1.0, 3.0)

    module.trainer.should_stop = False
    module.on_train_start()  # resumed after its last epoch
    assert module.trainer.should_stop


def test_best_weights_come_back_at_the_last_epoch_and_not_before() -> None:
    module = Two(5)
    epoch(module, 1.0, 1.0, 1.0)
    epoch(module, 2.0, 2.0, 2.0)
    module.trainer.current_epoch = 8
    module.on_train_epoch_end()
    assert weight(module.first) == 2.0
    module.trainer.current_epoch = 9
    module.on_train_epoch_end()
    assert weight(module.first) == 1.0
    module.on_train_start()
    assert not module.trainer.should_stop


def test_without_patience_nothing_is_kept() -> None:
    module = Two(None)
    epoch(module, 1.0, 1.0, 1.0)
    module.trainer.current_epoch = 9
    module.on_train_epoch_end()
    assert not module.done()
    assert len(module.best) == 0
