"""Networks to squeeze into and to post-train: torchvision's, timm's, and ResNets for images of 32 or 64 pixels."""

from __future__ import annotations

import timm
from torch import nn
from torchvision.models import ResNet, get_model

from modules.common.needs import timm_weights

TIMM = "timm/"
SMALL = "_small_images"


def build_network(name: str, classes: int, pretrained: bool = False) -> nn.Module:
    """torchvision's `resnet18`, timm's `timm/resnet18`, or torchvision's ResNet for small images,
    `resnet18_small_images`.

    The released code squeezes and post-trains torchvision's networks, where the last norm of a residual block starts
    at 1; ImageNet-21K-P alone is squeezed into timm's, where it starts at 0 (SRe2L/validate/train_FKD.py,
    CDA/recover_cda_in21k.py).

    Raises ValueError where a network of torchvision is to be pretrained: timm has its weights, `timm/resnet18.tv_in1k`.
    """
    if name.startswith(TIMM):
        return timm.create_model(name.removeprefix(TIMM), pretrained=pretrained, num_classes=classes)
    if pretrained:
        raise ValueError(f"{name} has no pretrained weights here: expected pretrained=false or a network of {TIMM}")
    if name.endswith(SMALL):
        return small_image_resnet(name.removesuffix(SMALL), classes)
    return get_model(name, num_classes=classes)


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


NEEDS = {"build_network": timm_weights(key="name", prefix=TIMM)}
