"""OverFeat's sizes, layers and weight file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from modules.off_the_shelf.overfeat import OverFeat, load_released


def images(count: int, channels: int, side: int) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("size", "side", "parameters", "operations"),
    [("large", 221, 144_656_488, 5.355), ("small", 231, 145_920_872, None)],
)
def test_sizes_of_overfeat(size: str, side: int, parameters: int, operations: float | None) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        network = OverFeat(size)
        assert sum(p.numel() for p in network.parameters()) == parameters
        with FlopCounterMode(display=False) as counter:
            assert network(torch.empty(1, 3, side, side)).shape == (1, 1000)
        assert network.side == side
        if operations is not None:
            assert counter.get_total_flops() / 2e9 == pytest.approx(operations, abs=5e-4)
            assert network.maps[:3](torch.empty(1, 3, 221, 221)).shape[2:] == (36, 36)
            assert network.maps(torch.empty(1, 3, 221, 221)).shape == (1, 1024, 5, 5)
            assert network(torch.empty(1, 3, 257, 257)).shape == (1, 1000, 2, 2)
    with pytest.raises(ValueError, match="size='huge': expected one of small, large"):
        OverFeat("huge")


def test_overfeat_is_the_composition_of_its_layers() -> None:
    """Against plain functional calls in the published order."""
    torch.manual_seed(0)
    source = OverFeat("large", width=0.02, classes=7)
    layers = [m for m in source.modules() if isinstance(m, nn.Conv2d)]
    x = 255 * images(2, 3, 221)
    with torch.no_grad():
        h = (x - 118.380948) / 61.896913
        pools = {0: 3, 1: 2, 5: 3}
        for number, layer in enumerate(layers):
            h = nn.functional.conv2d(h, layer.weight, layer.bias, stride=2 if number == 0 else 1, padding=layer.padding)
            h = h.relu() if number < len(layers) - 1 else h
            h = nn.functional.max_pool2d(h, pools[number]) if number in pools else h
        assert torch.allclose(source(x), h.flatten(1), atol=1e-5)


def test_released_weights_are_read_layer_by_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, target = OverFeat(width=0.02), OverFeat(width=0.02)
    stored = torch.cat([p.detach().flatten() for p in source.parameters()])
    path = tmp_path / "net_weight_1"
    stored.numpy().astype("<f4").tofile(path)
    load_released(target, path)
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), target.parameters(), strict=True))
    assert [tuple(p.shape[2:]) for p in source.parameters()][:2] == [(7, 7), ()]  # filters first, then biases
    stored[:-1].numpy().tofile(path)
    with pytest.raises(ValueError, match=r"holds .* numbers; this network has"):
        OverFeat(pretrained=str(path), width=0.02)
