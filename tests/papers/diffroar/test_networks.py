"""Parameter counts, worked out by hand, and shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from modules.diffroar.networks import MLP, classifier, resnet


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("in_features", "widths", "classes", "parameters"),
    [
        (1568, (500, 500), 10, 784_500 + 250_500 + 5_010),  # BlockMNIST
        (784, (500, 500), 10, 392_500 + 250_500 + 5_010),  # Fashion-MNIST
        (3072, (500, 500), 10, 1_536_500 + 250_500 + 5_010),  # SVHN
        (10, (25_000,), 2, 275_000 + 50_002),  # the notebook's vectors, with two logits
    ],
)
def test_perceptrons(in_features: int, widths: tuple[int, ...], classes: int, parameters: int) -> None:
    network = MLP(in_features, widths, classes)
    assert count(network) == parameters
    assert network(torch.zeros(2, 1, 2, in_features // 2)).shape == (2, classes)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        # torchvision's ResNet-50 has 25,557,032: 9,408 in its first layer, 2,049,000 in its last; ResNet-18 11,689,512
        ({"name": "resnet50"}, 25_557_032 - 9_408 + 1_728 - 2_049_000 + 20_490),  # CIFAR-10: 23,520,842
        ({"name": "resnet18", "small": False}, 11_689_512 - 513_000 + 5_130),  # ImageNet-10: 11,181,642
        ({"name": "resnet18", "in_channels": 1}, 11_689_512 - 9_408 + 576 - 513_000 + 5_130),  # BlockMNIST
    ],
)
def test_resnets(options: dict[str, Any], parameters: int) -> None:
    assert count(resnet(classes=10, **options)) == parameters


@pytest.mark.parametrize(("small", "side"), [(True, 4), (False, 1)])
def test_small_images_keep_a_map_of_an_eighth(small: bool, side: int) -> None:
    network = resnet("resnet18", 10, small=small).eval()
    shapes = []
    network.layer4.register_forward_hook(lambda _layer, _given, out: shapes.append(tuple(out.shape[2:])))
    network(torch.zeros(1, 3, 32, 32))
    assert shapes == [(side, side)]


def test_the_first_layer_for_large_grey_images_is_torchvisions_on_one_channel() -> None:
    """A network for colours that looks at its first channel alone, with the same weights, gives the same."""
    torch.manual_seed(0)
    grey, colour = (resnet("resnet18", 10, channels, small=False).eval() for channels in (1, 3))
    state = grey.state_dict()
    weight = torch.zeros(64, 3, 7, 7)
    weight[:, :1] = state["conv1.weight"]
    colour.load_state_dict(state | {"conv1.weight": weight})
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(grey(x[:, :1]), colour(x), atol=1e-4)


def test_networks_by_name_fit_their_inputs() -> None:
    assert count(classifier("mlp", (1, 56, 28), 10)) == 1_040_010
    assert count(classifier("resnet18", (1, 56, 28), 10)) == 11_172_810
    assert count(classifier("resnet50", (3, 32, 32), 10)) == 23_520_842
    assert count(classifier("resnet18", (3, 112, 112), 10, small=False)) == 11_181_642
    assert classifier("resnet18", (1, 56, 28), 10).eval()(torch.zeros(1, 1, 56, 28)).shape == (1, 10)


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match="name='resnet34': expected mlp, resnet18 or resnet50"):
        classifier("resnet34", (3, 32, 32), 10)
