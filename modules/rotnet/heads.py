"""Classifiers on the output of a block (RotNet, arXiv 1803.07728)."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from modules.rotnet.networks import Shape, units

HeadFactory = Callable[[Shape, int], nn.Module]  # (shape of a block's output, number of classes)


def pooled(shape: Shape, classes: int) -> nn.Module:
    """Global average and one linear layer: how the NIN ends."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], classes))


def hidden_layers(inputs: int, hidden: int, classes: int) -> list[nn.Module]:
    """Two layers of `hidden` units with batch norm and ReLU, then a linear one."""
    layers: list[nn.Module] = [nn.Flatten()]
    for i, o in ((inputs, hidden), (hidden, hidden)):
        layers += [nn.Linear(i, o, bias=False), nn.BatchNorm1d(o), nn.ReLU(inplace=True)]
    return [*layers, nn.Linear(hidden, classes)]


def mlp(shape: Shape, classes: int) -> nn.Module:
    """The non-linear probe of CIFAR-10: three layers on the whole map, min(20 classes, 2048) hidden units."""
    return nn.Sequential(*hidden_layers(math.prod(shape), min(20 * classes, 2048), classes))


def conv_block(shape: Shape, classes: int) -> nn.Module:
    """The convolutional probe: a third NIN block as wide as its input, global average, one linear layer."""
    return nn.Sequential(*units(shape[0], [shape[0]] * 3, 3), *pooled(shape, classes).children())


def linear(shape: Shape, classes: int, inputs: int = 9600) -> nn.Module:
    """The linear probe of ImageNet: max-pooled to at most `inputs` numbers, batch norm without scale, one layer."""
    side = min(math.isqrt(inputs // shape[0]), shape[1])
    norm = nn.BatchNorm2d(shape[0], affine=False)
    return nn.Sequential(nn.AdaptiveMaxPool2d(side), norm, nn.Flatten(), nn.Linear(shape[0] * side**2, classes))


def fully_connected(shape: Shape, classes: int, hidden: int = 4096, conv: bool = False) -> nn.Module:
    """The rest of AlexNet after conv5, or with `conv` after conv4: its rotation head and the non-linear probes."""
    head = [nn.Conv2d(shape[0], 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU(inplace=True)] if conv else []
    side = (shape[1] - 3) // 2 + 1
    inputs = (256 if conv else shape[0]) * side**2
    return nn.Sequential(*head, nn.MaxPool2d(3, 2), *hidden_layers(inputs, hidden, classes))
