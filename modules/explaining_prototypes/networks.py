"""ProtoPNet: features, prototypes and a last layer (arXiv 1806.10574)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modules.common.prototypes import PrototypeLayer, class_weights, strongest

PARTS = ("backbone", "add_on", "prototypes", "last")  # what a phase may train


def small_backbone(
    channels: int = 3,
    widths: Sequence[int] = (32, 64, 64),
    strides: Sequence[int] = (2, 2, 2),
    kernels: Sequence[int] = (5, 3, 3),
) -> nn.Module:
    """Convolutions with batch norm and ReLU. (B, channels, S, S) -> (B, widths[-1], S', S')."""
    layers: list[nn.Module] = []
    before = channels
    for width, stride, kernel in zip(widths, strides, kernels, strict=True):
        convolution = nn.Conv2d(before, width, kernel, stride, kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        before = width
    return nn.Sequential(*layers)


class ProtoPNet(nn.Module):
    """Images to logits by their similarities to prototypes. (B, 3, S, S) -> (B, classes).

        z = sigmoid(conv(relu(conv(f(x)))))       in (0, 1), D channels
        g_j = max over positions of ln((d_j + 1) / (d_j + 1e-4)),    logits = W g

    W has no bias and starts with 1 for a class's own prototypes and -0.5 elsewhere.

    Args:
        backbone: f, with `features` channels.
        features: channels of f(x).
        classes, per_class: of prototypes.
        channels: D.
    """

    def __init__(
        self, backbone: nn.Module, features: int, classes: int, per_class: int = 10, channels: int = 128
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.add_on = nn.Sequential(
            nn.Conv2d(features, channels, 1), nn.ReLU(inplace=True), nn.Conv2d(channels, channels, 1), nn.Sigmoid()
        )
        for layer in self.add_on:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
        self.prototypes = PrototypeLayer(classes, per_class, channels)
        self.last = nn.Linear(len(self.prototypes), classes, bias=False)
        with torch.no_grad():
            self.last.weight.copy_(class_weights(self.prototypes.owner, classes))

    def features(self, x: Tensor) -> Tensor:
        """z (B, D, H, W)."""
        return self.add_on(self.backbone(x))

    def classify(self, similarities: Tensor) -> Tensor:
        """(B, P, H, W) -> logits (B, classes)."""
        return self.last(strongest(similarities)[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.prototypes(self.features(x)))
