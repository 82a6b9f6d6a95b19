"""The networks have the published sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modules.noprop.networks import Network, time_embedding


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


def test_a_label_passes_through_one_layer_where_there_is_a_time() -> None:
    """Figure 6: a linear layer and a ReLU; t passes through as much, and both meet the image in the head."""
    torch.manual_seed(0)
    network = Network(4, 3, False, True, 1, 8, [2, 2, 2], 6).eval()
    z = torch.randn(5, 4)
    linear = next(layer for layer in network.label if isinstance(layer, nn.Linear))
    assert torch.allclose(network.label(z), F.relu(linear(z)))
    features, t = network.image(torch.randn(5, 1, 8, 8)), torch.tensor([0.3])
    time = network.time(time_embedding(t)).expand(5, -1)  # type: ignore[misc]
    assert torch.equal(network(z, features, t), network.head(torch.cat([features, network.label(z), time], 1)))
