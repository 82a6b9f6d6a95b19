"""A small network that gives maps, for the mini recipe."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class SmallMaps(nn.Sequential):
    """3x3 convolutions with batch norm and ReLU; all but the first halve the sides: (B, 3, S, S) -> (B, C, s, s).

    Args:
        widths: channels of each convolution.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        channels = 3
        for number, width in enumerate(widths):
            stride = 2 if number else 1
            layers += [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        super().__init__(*layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPUs
