"""Feature extractors of NAPA-VQ: ResNet-18 for photos or small images, and a small convolutional network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torchvision.models import resnet18

from modules.common.networks import ConvNet


def resnet(stem: str = "cifar") -> nn.Module:
    """ResNet-18 without its linear layer, (B, 3, H, W) -> (B, 512). "cifar": a 3x3 stem that keeps the size."""
    if stem not in ("cifar", "imagenet"):
        raise ValueError(f"stem={stem!r}: expected cifar or imagenet")
    network = resnet18(num_classes=1)
    if stem == "cifar":
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
        network.maxpool = nn.Identity()
    network.fc = nn.Identity()
    return network


def convnet(in_channels: int, input_size: int, widths: Sequence[int], strides: Sequence[int]) -> nn.Module:
    """3x3 convolutions with batch norm and ReLU, averaged over the image: (B, C, H, W) -> (B, widths[-1])."""
    network = ConvNet(in_channels, input_size, widths, strides, classes=1, grid=1)
    network[-1] = nn.Identity()
    return network
