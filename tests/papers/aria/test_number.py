"""The one-number control by hand."""

from __future__ import annotations

import torch

from modules.aria.number import NumberDetector, OneNumber, energy, threshold


def test_a_threshold_by_hand() -> None:
    values = torch.tensor([1.0, 2, 3, 10, 11])
    cut, side = threshold(values, torch.tensor([0, 0, 0, 1, 1]))
    assert (cut, side) == (6.5, 1)
    cut, side = threshold(values, torch.tensor([1, 1, 0, 0, 0]))
    assert (cut, side) == (2.5, -1)


def test_one_number_learns_its_threshold() -> None:
    sharp, flat = torch.rand(20, 3, 8, 8), 0.1 * torch.rand(20, 3, 8, 8)
    stage = NumberDetector()
    stage.seen = [(energy(torch.cat([sharp, flat])), torch.tensor([0] * 20 + [1] * 20))]
    stage.finish()
    assert isinstance(stage.network, OneNumber)
    assert bool((stage.network(flat) > 0).all())
    assert bool((stage.network(sharp) < 0).all())
    assert stage.state_dict().keys() >= {"network.cut", "network.side"}
