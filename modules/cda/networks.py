"""Networks to squeeze into and to post-train: torchvision's, timm's, and ResNets for images of 32 or 64 pixels."""

from __future__ import annotations

import timm
from torch import nn
from torchvision.models import get_model

from modules.common.needs import timm_weights
from modules.common.resnets import small_image_resnet

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


NEEDS = {"build_network": timm_weights(key="name", prefix=TIMM)}
