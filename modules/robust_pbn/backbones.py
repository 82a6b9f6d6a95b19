"""Convolutional networks whose last maps are components: softmax over channels at every place (PIP-Net)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modules.common.needs import torchvision_weights


class Backbone(nn.Sequential):
    """Layers in a row, the last of which are fine-tuned. Images (B, C, S, S) -> features (B, K, H, W).

    Args:
        layers: in order.
        channels: K.
        tuned: how many of the last layers train; what comes before is never changed by an optimiser.
    """

    def __init__(self, layers: Sequence[nn.Module], channels: int, tuned: int) -> None:
        super().__init__(*layers)
        self.channels, self.tuned = channels, tuned

    def upper(self) -> nn.Sequential:
        """The layers that are fine-tuned."""
        return nn.Sequential(*list(self)[-self.tuned :])


def without_large_strides(network: nn.Module, over: int) -> nn.Module:
    """In place: stride 1 for every convolution of stride 2 with more than `over` input channels."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.stride[0] == 2 and layer.in_channels > over:
            layer.stride = (1, 1)
    return network


def convnext_tiny(pretrained: bool = True, over: int = 100) -> Backbone:
    """ConvNeXt-T's features, 768 channels; features.6 and .7 are fine-tuned. 224 pixels -> 26 x 26; over=300: 13 x 13.

    Args:
        pretrained: torchvision's ImageNet weights, fetched where they are missing.
        over: see without_large_strides.
    """
    from torchvision import models

    weights = models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1 if pretrained else None
    features = models.convnext_tiny(weights=weights).features
    without_large_strides(features, over)
    return Backbone(list(features), 768, tuned=2)


def resnet50(pretrained: bool = True) -> Backbone:
    """ResNet-50 with stride 1 in layer3 and layer4, 2048 channels; these two are fine-tuned. 224 pixels -> 28 x 28.

    Args:
        pretrained: torchvision's first ImageNet weights, fetched where they are missing.
    """
    from torchvision import models

    network = models.resnet50(weights=models.ResNet50_Weights.IMAGENET1K_V1 if pretrained else None)
    for layer in (network.layer3, network.layer4):
        without_large_strides(layer, 0)
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)
    return Backbone([stem, network.layer1, network.layer2, network.layer3, network.layer4], 2048, tuned=2)


def small(in_channels: int, widths: Sequence[int], strides: Sequence[int], tuned: int) -> Backbone:
    """3x3 convolutions with batch norm, ReLU between them, for the mini recipe.

    Args:
        in_channels: of the images.
        widths: channels of each convolution; the last is K.
        strides: of each.
        tuned: how many of the last convolutions train.
    """
    layers = []
    channels = in_channels
    for number, (width, stride) in enumerate(zip(widths, strides, strict=True)):
        convolution = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        activation = nn.ReLU() if number < len(widths) - 1 else nn.Identity()  # the softmax sees both signs
        layers.append(nn.Sequential(convolution, nn.BatchNorm2d(width), activation))
        channels = width
    return Backbone(layers, channels, tuned)


class PartNetwork(nn.Module):
    """Images -> maps of components (B, K, H, W), a distribution over K at every place, and d (B, K), their maxima.

    Args:
        backbone: its channels are the components.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.count = backbone.channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.backbone(x).float().softmax(1)  # (B, K, H, W)
        return maps, maps.amax((2, 3))

    def tune(self) -> None:
        """The upper layers train, the others do not; all of them in training mode."""
        self.train().requires_grad_(False)
        self.backbone.upper().requires_grad_(True)


class Start(nn.Module):
    """A backbone as an ordinary classifier: what the components start from. Images -> logits (B, classes).

    Args:
        backbone: see Backbone.
        classes: number of outputs.
    """

    def __init__(self, backbone: Backbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Linear(backbone.channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.backbone(x).relu().mean((2, 3)))


def count_present(detections: Tensor, threshold: float = 0.1) -> Tensor:
    """(B, K) -> (B,): how many components are there."""
    return (detections >= threshold).sum(1)


def clear_absent(detections: Tensor, threshold: float = 0.1) -> Tensor:
    """(B, K): detections below the threshold become 0, as in the released inference."""
    return torch.where(detections < threshold, 0.0, detections)


NEEDS = {"convnext_tiny": torchvision_weights("convnext_tiny"), "resnet50": torchvision_weights("resnet50")}
