"""The ResNet-18 that Tiny-ImageNet and CIFAR are squeezed into and post-trained with."""

from __future__ import annotations

from torch import nn
from torchvision.models import ResNet, resnet18


def small_image_resnet18(classes: int) -> ResNet:
    """torchvision's ResNet-18 with a 3x3 convolution of stride 1 at the start and no max-pooling after it."""
    network = resnet18(num_classes=classes)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network
