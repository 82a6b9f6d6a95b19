"""The convolutional parts of published classifiers."""

from __future__ import annotations

from torch import nn

from modules.common.needs import torchvision_weights

BACKBONES = ("densenet121", "densenet161", "resnet34", "resnet50", "resnet152", "vgg16", "vgg19")


def imagenet_backbone(name: str, pretrained: bool = True) -> nn.Module:
    """The convolutional part of a torchvision classifier; 224x224 pixels become a map of 7x7.

    VGG keeps its last pooling, DenseNet gets a final ReLU, ResNet ends after layer4.

    Args:
        name: one of BACKBONES.
        pretrained: fetch the weights that were first trained on ImageNet.
    Raises:
        ValueError: another name.
    """
    from torchvision import models

    if name not in BACKBONES:
        raise ValueError(f"name={name!r}: expected one of {', '.join(BACKBONES)}")
    network = models.get_model(name, weights="IMAGENET1K_V1" if pretrained else None)
    if name.startswith("resnet"):
        return nn.Sequential(*list(network.children())[:-2])
    features = network.get_submodule("features")
    return nn.Sequential(features, nn.ReLU(inplace=True)) if name.startswith("densenet") else features


NEEDS = {"imagenet_backbone": torchvision_weights()}
