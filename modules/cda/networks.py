"""Networks to squeeze into and to post-train: timm's, and ResNets for images of 32 or 64 pixels."""

from __future__ import annotations

import timm
from torch import nn
from torchvision.models import ResNet, get_model

SMALL = "_small_images"


def build_network(name: str, classes: int, pretrained: bool = False) -> nn.Module:
    """A network of timm, or torchvision's ResNet for small images: `resnet18_small_images`.

    Raises ValueError where such a ResNet is to be pretrained: there are no weights.
    """
    if not name.endswith(SMALL):
        return timm.create_model(name, pretrained=pretrained, num_classes=classes)
    if pretrained:
        raise ValueError(f"{name} has no pretrained weights: expected pretrained=false")
    return small_image_resnet(name.removesuffix(SMALL), classes)


def small_image_resnet(name: str, classes: int) -> ResNet:
    """torchvision's ResNet with a 3x3 convolution of stride 1 at the start and no max-pooling after it.

    Raises ValueError for a name that is no ResNet's.
    """
    network = get_model(name, num_classes=classes)
    if not isinstance(network, ResNet):
        raise ValueError(f"{name}{SMALL}: {name} is no ResNet")
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
