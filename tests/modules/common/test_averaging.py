"""A running average of weights, step by step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.common.averaging import WeightAverage


def test_running_average_follows_tensorflows_rule() -> None:
    layer = nn.BatchNorm1d(1)
    average = WeightAverage(layer, 0.5)
    values, expected = [1.0, 3.0, -2.0, 5.0, 4.0, 4.5, 7.0, 8.0, 1.0, 2.0], 1.0
    for n, value in enumerate(values):
        layer.weight.data.fill_(value)
        layer.num_batches_tracked.fill_(n)  # type: ignore[union-attr]
        average.update(layer)
        d = min(0.5, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * value
    assert float(average.values()["weight"]) == pytest.approx(expected, abs=1e-5)
    assert int(average.values()["num_batches_tracked"]) == 9
    assert not list(average.parameters())

    stopped = WeightAverage(layer, 0.9)
    stopped.update(layer)  # it knows a count of its own, which the loaded one replaces
    stopped.load_state_dict(average.state_dict())
    layer.weight.data.fill_(3.0)
    stopped.update(layer)
    assert float(stopped.values()["weight"]) == pytest.approx(11 / 20 * expected + 9 / 20 * 3.0, abs=1e-5)
    with pytest.raises(ValueError, match=r"decay=1\.0"):
        WeightAverage(layer, 1.0)
    with pytest.raises(ValueError, match=r"decay=-0\.1"):
        WeightAverage(layer, -0.1)


def test_timms_rule_has_its_decay_from_the_start() -> None:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    average = WeightAverage(layer, 0.9, warm=False)
    layer.weight.data.fill_(2.0)
    average.update(layer)
    assert float(average.values()["weight"]) == pytest.approx(1.1)
    average.update(layer)
    assert float(average.values()["weight"]) == pytest.approx(1.19)
    assert int(average.updates) == 2


def test_the_average_is_what_a_network_is_called_with() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2)).eval()
    average, x = WeightAverage(network, 0.9), torch.randn(3, 2)
    before = network(x)
    with torch.no_grad():
        network[0].weight.add_(1.0)
    assert torch.equal(average.call(network, x), before)
    assert not torch.equal(network(x), before)
    assert set(average.values()) == set(network.state_dict())
    again = WeightAverage(network, 0.9)
    with pytest.raises(RuntimeError, match="Missing key"):
        again.load_state_dict({})
