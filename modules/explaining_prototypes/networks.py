"""The backbone of mini."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


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
