"""The backbone of mini, and the rates of the phases."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.common.schedules import Position
from modules.explaining_prototypes.networks import small_backbone
from modules.explaining_prototypes.schedules import before_epoch


def test_a_small_backbone_halves_where_its_stride_is_two() -> None:
    net = small_backbone(2, (6, 8), (2, 1), (5, 3))
    assert net(torch.zeros(1, 2, 64, 48)).shape == (1, 8, 32, 24)
    convolutions = [layer for layer in net if isinstance(layer, nn.Conv2d)]
    assert [(c.kernel_size, c.bias) for c in convolutions] == [((5, 5), None), ((3, 3), None)]
    assert isinstance(net[-1], nn.ReLU)


def test_rates_fall_before_the_epoch() -> None:
    factors = [before_epoch(Position(epoch, 0, 10, 26)) for epoch in range(26)]
    assert factors == pytest.approx([1] * 4 + [0.1] * 5 + [0.01] * 5 + [1e-3] * 5 + [1e-4] * 5 + [1e-5] * 2)
    stages = [(0, 6), (6, 10), (16, 10)]
    split = [before_epoch(Position(e, 0, 10, n), done=done) for done, n in stages for e in range(n)]
    assert split == factors
