"""Small convolutional networks for the mini recipes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ConvNet(nn.Sequential):
    """3x3 convolutions with batch norm and ReLU, pooled, then one linear layer.

    Args:
        in_channels: channels of the input.
        input_size: side of the square input, pixels.
        widths: channels of each convolution.
        strides: stride of each convolution; 0 means stride 1 followed by a 2x2 max-pooling.
        grid: average-pool the last map to grid x grid before the linear layer; None keeps it.
        dropout: before the linear layer.
        classes: number of outputs.
    """

    def __init__(
        self,
        in_channels: int,
        input_size: int,
        widths: Sequence[int],
        strides: Sequence[int],
        classes: int,
        grid: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        if len(widths) != len(strides):
            raise ValueError(f"widths has {len(widths)} entries and strides {len(strides)}; expected as many")
        layers: list[nn.Module] = []
        channels = in_channels
        for width, stride in zip(widths, strides, strict=True):
            layers += [
                nn.Conv2d(channels, width, 3, stride or 1, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            if stride == 0:
                layers.append(nn.MaxPool2d(2))
            channels = width
        if grid is not None:
            layers.append(nn.AdaptiveAvgPool2d(grid))
        layers.append(nn.Flatten())
        body = nn.Sequential(*layers).eval()
        with torch.no_grad():
            features = body(torch.zeros(1, in_channels, input_size, input_size)).shape[1]
        body.train()  # Lightning trains layers in the mode they are in: batch norms would never see a batch
        if dropout:
            layers.append(nn.Dropout(dropout))
        super().__init__(*layers, nn.Linear(features, classes))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, input_size, input_size) -> logits (B, classes)."""
        return super().forward(x)
