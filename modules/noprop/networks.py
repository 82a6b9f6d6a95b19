"""The networks that blocks and baselines are made of (NoProp, arXiv 2503.24322)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Residual(nn.Sequential):
    """x + layers(x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Network(nn.Module):
    """One denoiser before its softmax: a block of the discrete arms or, `timed`, the network of the others (Figure 6).

    Args:
        dim: d, of the label embedding.
        classes: m.
        as_image: the label is an image (d = in_channels * size^2) and is processed as x is.
        timed: t is an input; there is then no batch norm.
        in_channels, size: of the square image.
        widths: channels of the three 3x3 convolutions (padding 1; pooled after the first and the third).
        hidden: units of the fully connected layers; the last but one has half as many.
        dropout: after each convolution.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        as_image: bool,
        timed: bool,
        in_channels: int,
        size: int,
        widths: Sequence[int] = (32, 64, 128),
        hidden: int = 256,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()

        def dense(inputs: int, outputs: int = hidden) -> list[nn.Module]:
            return [nn.Linear(inputs, outputs), *([] if timed else [nn.BatchNorm1d(outputs)])]

        def of_image() -> list[nn.Module]:
            layers: list[nn.Module] = []
            for channels, width, pooled in zip([in_channels, *widths[:2]], widths, (True, False, True), strict=True):
                pooling = [nn.MaxPool2d(2)] if pooled else []
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), *pooling, nn.Dropout(dropout)]
            last = [nn.ReLU()] if timed else []
            return [*layers, nn.Flatten(), *dense(widths[2] * (size // 4) ** 2), *last]

        self.image = nn.Sequential(*of_image())
        if as_image:
            self.label = nn.Sequential(nn.Unflatten(1, (in_channels, size, size)), *of_image())
        else:
            skip = [] if timed else [Residual(*dense(hidden), nn.ReLU(), *dense(hidden))]
            self.label = nn.Sequential(*dense(dim), nn.ReLU(), *skip)
        self.time = nn.Sequential(*dense(64), nn.ReLU()) if timed else None
        inputs = (3 if timed else 2) * hidden
        half = hidden // 2
        self.head = nn.Sequential(*dense(inputs), nn.ReLU(), *dense(hidden, half), nn.ReLU(), nn.Linear(half, classes))

    def forward(self, z: Tensor, features: Tensor, t: Tensor | None = None) -> Tensor:
        """z (B, d), features = self.image(x) (B, hidden), t (B,) or (1,) -> logits over the class embeddings (B, m)."""
        inputs = [features, self.label(z)]
        if self.time is not None and t is not None:
            inputs.append(self.time(time_embedding(t)).expand(len(z), -1))
        return self.head(torch.cat(inputs, -1))


def time_embedding(t: Tensor, dim: int = 64) -> Tensor:
    """Sines and cosines of 1000 t with wavelengths from 2 pi to 20,000 pi. t (B,) in [0, 1] -> (B, dim)."""
    rates = torch.exp(-math.log(10_000) * torch.arange(dim // 2, device=t.device) / (dim // 2))
    angles = 1000 * t[:, None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], -1)
