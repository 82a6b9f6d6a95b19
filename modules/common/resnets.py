"""torchvision's ResNets for images of 32 or 64 pixels."""

from __future__ import annotations

from torch import nn
from torchvision.models import ResNet, get_model


def small_image_resnet(name: str, classes: int) -> ResNet:
    """torchvision's ResNet with a 3x3 convolution of stride 1 at the start and no max-pooling after it.

    Args:
        name: torchvision's, as resnet18.
        classes: of the last layer.
    Raises:
        ValueError: a name that is no ResNet's.
    """
    network = get_model(name, num_classes=classes)
    if not isinstance(network, ResNet):
        raise ValueError(f"{name}: expected one of torchvision's ResNets, as resnet18")
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
