"""The paper's networks: perceptrons of one and two hidden layers, and ResNets for small images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn


class MLP(nn.Sequential):
    """Linear layers with ReLU between them, on flattened inputs.

    Args:
        in_features: numbers in an input, C H W.
        widths: of the hidden layers.
        classes: number of outputs.
    """

    def __init__(self, in_features: int, widths: Sequence[int], classes: int) -> None:
        sizes = [in_features, *widths]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers, nn.Linear(sizes[-1], classes))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, classes)."""
        return super().forward(x)


def resnet(name: str, classes: int, in_channels: int = 3, small: bool = True) -> Any:
    """A torchvision ResNet, untrained.

    Args:
        name: "resnet18" or "resnet50".
        classes: number of outputs.
        in_channels: channels of the input.
        small: for images of some 32 pixels: begins with a 3x3 convolution of stride 1, without pooling.
    Raises:
        ValueError: another name.
    """
    from torchvision import models

    if name not in ("resnet18", "resnet50"):
        raise ValueError(f"name={name!r}: expected mlp, resnet18 or resnet50")
    network = models.get_model(name, weights=None, num_classes=classes)
    if small:
        network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    elif in_channels != 3:
        network.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    return network


def classifier(
    name: str, shape: Sequence[int], classes: int, widths: Sequence[int] = (500, 500), small: bool = True
) -> Any:
    """One of the paper's networks, by name.

    Args:
        name: "mlp", "resnet18" or "resnet50".
        shape: (C, H, W) of the inputs.
        classes: number of outputs.
        widths: of the hidden layers of an MLP.
        small: see resnet.
    Raises:
        ValueError: another name.
    """
    if name == "mlp":
        return MLP(math.prod(shape), widths, classes)
    return resnet(name, classes, shape[0], small)
