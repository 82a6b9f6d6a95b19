"""The published networks: sizes, multiply-adds, maps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from modules.inception_v4 import architectures
from modules.inception_v4.networks import Inception, Residual
from tests.papers.inception_v4.helpers import multiply_adds, parameters


def normalised(module: nn.Module, shape: tuple[int, ...]) -> float:
    """Numbers that batch norms put out for one image, in 1e9; some counters add twice as many operations."""
    total = 0

    def count(layer: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal total
        total += output.numel()

    handles = [m.register_forward_hook(count) for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    module.eval()(torch.zeros(1, *shape, device="meta"))
    for handle in handles:
        handle.remove()
    return total / 1e9


# timm's are counted with batch norm as two operations, the others with it and without the last layer.
PUBLISHED = [
    (architectures.inception_v4, 42_679_816, 12.284, True, [(384, 35), (384, 35), (1024, 17), (1536, 8), (1536, 8)]),
    (
        architectures.inception_resnet_v1,
        22_756_328,
        6.221,
        False,
        [(256, 35), (256, 35), (896, 17), (1792, 8), (1792, 8)],
    ),
    (
        architectures.inception_resnet_v2,
        32_433_928,
        9.277,
        False,
        [(384, 35), (384, 35), (1152, 17), (2144, 8), (2144, 8)],
    ),
    (
        architectures.inception_resnet_v2_released,
        55_843_464,
        13.183,
        True,
        [(320, 35), (320, 35), (1088, 17), (2080, 8), (1536, 8)],
    ),
    (partial(architectures.inception_resnet_v2, repeats=(10, 20, 10)), 55_284_488, 14.169, False, None),
    (architectures.inception_v3, 23_834_568, None, True, None),
]


@pytest.mark.parametrize(("make", "count", "giga", "whole", "shapes"), PUBLISHED)
def test_published_sizes(
    make: Callable[[], Inception],
    count: int,
    giga: float | None,
    whole: bool,
    shapes: list[tuple[int, int]] | None,
) -> None:
    with torch.device("meta"):
        network = make()
        assert parameters(network) == count
        if giga is not None:
            last = 0 if whole else network.classifier.weight.numel() / 1e9
            operations = multiply_adds(network, (3, 299, 299)) + 2 * normalised(network, (3, 299, 299)) - last
            assert operations == pytest.approx(giga, abs=0.0006)
        if shapes is not None:
            maps = network.maps(torch.zeros(1, 3, 299, 299))
            assert [(m.shape[1], m.shape[2]) for m in maps] == shapes


def test_parameters_without_the_last_layer() -> None:
    with torch.device("meta"):
        for make, trunk in (
            (architectures.inception_resnet_v1, 20_963_328),
            (architectures.inception_resnet_v2, 30_288_928),
        ):
            network = make()
            assert parameters(network) - parameters(network.classifier) == trunk


def test_maps_of_the_stem() -> None:
    with torch.device("meta"):
        x, shapes = torch.zeros(1, 3, 299, 299), []
        network = architectures.inception_v4()
        for layer in network.features[0].branches[0]:  # type: ignore[union-attr, index]
            x = layer(x)
            shapes.append((x.shape[1], x.shape[2]))
        for layer in network.features[1:4]:
            x = layer(x)
            shapes.append((x.shape[1], x.shape[2]))
    assert shapes == [(32, 149), (32, 147), (64, 147), (160, 73), (192, 71), (384, 35)]


def test_width_and_depth_are_free() -> None:
    with torch.device("meta"):
        network = architectures.inception_resnet_v2(classes=7, repeats=(1, 2, 1), width=0.125, in_channels=1)
        assert [m.shape[1] for m in network.maps(torch.zeros(1, 1, 139, 139))] == [48, 48, 144, 268, 268]
        assert sum(isinstance(layer, Residual) for layer in network.features) == 4
        assert network(torch.zeros(2, 1, 139, 139)).shape == (2, 7)


def test_released_network_ends_with_an_unscaled_block_without_relu() -> None:
    with torch.device("meta"):
        blocks = [b for b in architectures.inception_resnet_v2_released().features if isinstance(b, Residual)]
    assert [b.scale for b in blocks] == [0.17] * 10 + [0.10] * 20 + [0.20] * 9 + [1.0]
    assert [b.relu for b in blocks] == [True] * 39 + [False]
