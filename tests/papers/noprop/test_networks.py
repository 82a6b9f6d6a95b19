"""The networks have the published sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.noprop.networks import Network


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("timed", "classes", "dim", "channels", "size", "count"),
    [
        (False, 10, 10, 1, 28, 2_001_290),
        (False, 10, 10, 3, 32, 2_493_386),
        (False, 100, 100, 3, 32, 2_528_036),
        (False, 10, 20, 1, 28, 2_003_850),
        (False, 10, 20, 3, 32, 2_495_946),
        (False, 100, 20, 3, 32, 2_507_556),
        (True, 10, 10, 1, 28, 1_949_066),
        (True, 10, 10, 3, 32, 2_441_162),
        (True, 100, 100, 3, 32, 2_475_812),
    ],
)
def test_published_sizes(timed: bool, classes: int, dim: int, channels: int, size: int, count: int) -> None:
    with torch.device("meta"):
        network = Network(dim, classes, False, timed, channels, size)
    assert parameters(network) == count
    assert any(isinstance(m, nn.BatchNorm1d) for m in network.modules()) != timed
