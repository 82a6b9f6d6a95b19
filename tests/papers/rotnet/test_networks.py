"""Published sizes, AlexNet against torchvision, the network in network layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from modules.rotnet import heads, networks
from modules.rotnet.module import RotNet


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_sizes_of_the_published_networks() -> None:
    with torch.device("meta"):
        trunk = networks.nin(blocks=5)
        assert [parameters(block) for block in trunk] == [61_376, 535_680, 406_656, 406_656, 406_656]
        totals = [parameters(RotNet(networks.nin(blocks=n), heads.pooled)) for n in (3, 4, 5)]
        assert totals == [1_004_484, 1_411_140, 1_817_796]
        assert trunk.shapes == [(96, 16, 16), *[(192, 8, 8)] * 4]
        assert networks.nin(blocks=4, pool_block3=True).shapes[2:] == [(192, 4, 4)] * 2
        assert parameters(heads.mlp((192, 8, 8), 10)) == 2_500_410
        assert parameters(heads.mlp((96, 16, 16), 10)) == 4_958_010
        assert parameters(heads.conv_block((192, 8, 8), 10)) == 408_586
        widths = [heads.mlp((192, 8, 8), classes)[1].out_features for classes in (10, 100, 103)]  # type: ignore[index]
        assert widths == [200, 2000, 2048]  # 20 units for each class, at most 2048
        large = RotNet(networks.alexnet(), heads.fully_connected)
        assert parameters(large.trunk) == 2_472_000
        assert parameters(large) == 57_030_724
        inputs = [heads.linear(shape, 1000)[-1].in_features for shape in large.trunk.shapes]  # type: ignore[index]
        assert inputs == [9_216, 9_408, 9_600, 9_216, 9_216]
        assert parameters(heads.fully_connected((256, 13, 13), 4, conv=True)) == 57_030_724 - 2_472_000 + 590_592


def test_alexnet_agrees_with_torchvision() -> None:
    """With batch norm as the identity, blocks 1 to 5 are torchvision's features without the last pooling."""
    torch.manual_seed(0)
    theirs = torchvision.models.alexnet().features[:-1].eval()
    trunk = networks.alexnet().eval()
    pairs = zip(
        (m for m in trunk.modules() if isinstance(m, nn.Conv2d)),
        (m for m in theirs.modules() if isinstance(m, nn.Conv2d)),
        strict=True,
    )
    for ours, other in pairs:
        ours.load_state_dict(other.state_dict())
    for layer in trunk.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = 0.0
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(trunk(x)[-1], theirs(x), atol=1e-5)
        assert trunk(x)[1].shape == (1, 192, 27, 27)  # before the pooling


def test_the_network_in_network_layer_by_layer(sizes: dict[str, Any], images: Callable[..., Tensor]) -> None:
    """Statistics are 0 and 1: a unit is a convolution, a division by sqrt(1 + eps) and a ReLU."""
    torch.manual_seed(0)
    trunk = networks.nin(blocks=3, **sizes).eval()
    convs = [layer for layer in trunk.modules() if isinstance(layer, nn.Conv2d)]
    assert [conv.kernel_size[0] for conv in convs] == [5, 1, 1, 5, 1, 1, 3, 1, 1]
    x, expected = images(), []
    with torch.no_grad():
        outputs = trunk(x)
        for number, conv in enumerate(convs):
            x = (F.conv2d(x, conv.weight, padding=conv.kernel_size[0] // 2) / math.sqrt(1 + 1e-5)).relu()
            if number == 2:
                x = F.max_pool2d(x, 3, 2, 1)
            if number == 5:
                x = F.avg_pool2d(x, 3, 2, 1)
            if number % 3 == 2:
                expected.append(x)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(outputs, expected, strict=True))


def test_average_pooling_counts_the_zeros_of_its_padding(sizes: dict[str, Any]) -> None:
    pool = networks.nin(**sizes)[1][-1]  # type: ignore[index]
    assert isinstance(pool, nn.AvgPool2d)
    pooled = nn.AvgPool2d(pool.kernel_size, 1, pool.padding)(torch.ones(1, 1, 4, 4))[0, 0]
    assert pooled[0, :2].tolist() == pytest.approx([4 / 9, 6 / 9])
    assert float(pooled[1, 1]) == pytest.approx(1)
    assert pool(torch.ones(1, 1, 4, 4))[0, 0, 0, 0] == pytest.approx(4 / 9)


def test_wrong_networks_are_named(small: Callable[..., RotNet]) -> None:
    with pytest.raises(ValueError, match="blocks=1"):
        networks.nin(blocks=1)
    with pytest.raises(ValueError, match="init='wrong': expected one of library, he"):
        small(init="wrong")
