"""Encoder, generator, discriminator and pixel denoiser for small images; the paper's own are in paper_networks.py.

An encoder has four parts that the rest of the room relies on, one on top of the other:

    maps(x)      last convolution's output, before its ReLU       (B, K, H', W')
    pooled(x)    h1, the pooled maps                              (B, K, H'', W'')
    upper(h1)    h, a fully connected layer after its ReLU        (B, code), >= 0
    forward(x)   the classifier on top                            (B, classes)
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class Encoder(Protocol):
    """E: images to features h1 and code h."""

    code: int  # entries of h

    def maps(self, x: Tensor) -> Tensor: ...

    def pooled(self, x: Tensor) -> Tensor: ...

    def upper(self, h1: Tensor) -> Tensor: ...

    def __call__(self, x: Tensor) -> Tensor: ...


def encode(encoder: Encoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Images -> h1 and h (B, code)."""
    h1 = encoder.pooled(x)
    return h1, encoder.upper(h1)


class SmallEncoder(nn.Module):
    """E for 28x28 pixels: two convolutions of stride 2, h1 (B, 32, 7, 7), h (B, code), a linear classifier.

    Args:
        in_channels: of the images.
        side: of the images, pixels, a multiple of 4.
        widths: channels of the two convolutions.
        code: entries of h.
        classes: number of classes.
    Raises:
        ValueError: another side.
    """

    def __init__(
        self,
        in_channels: int = 1,
        side: int = 28,
        widths: tuple[int, int] = (16, 32),
        code: int = 128,
        classes: int = 10,
    ) -> None:
        super().__init__()
        if side % 4:
            raise ValueError(f"side={side}: expected a multiple of 4")
        self.code = code
        self.convolutions = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
            nn.Conv2d(widths[0], widths[1], 4, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(widths[1]),
        )
        self.relu = nn.ReLU()
        self.fc = nn.Sequential(nn.Flatten(), nn.Linear(widths[1] * (side // 4) ** 2, code), nn.ReLU())
        self.classifier = nn.Linear(code, classes)

    def maps(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, K, S/4, S/4)."""
        return self.convolutions(x)

    def pooled(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> h1 (B, K, S/4, S/4)."""
        return self.relu(self.maps(x))

    def upper(self, h1: Tensor) -> Tensor:
        """h1 -> h (B, code)."""
        return self.fc(h1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> logits (B, classes)."""
        return self.classifier(self.upper(self.pooled(x)))


class SmallJudge(nn.Sequential):
    """Two convolutions of 3x3 and stride 2, a hidden layer whose units are the judge's features, a linear classifier.

    Args:
        in_channels: of the images.
        side: of the images, pixels, a multiple of 4.
        features: units of the hidden layer.
        classes: number of classes.
    """

    def __init__(self, in_channels: int = 1, side: int = 28, features: int = 32, classes: int = 10) -> None:
        super().__init__(
            nn.Conv2d(in_channels, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (side // 4) ** 2, features),
            nn.ReLU(),
            nn.Linear(features, classes),
        )


class SmallGenerator(nn.Module):
    """G for small images: fully connected layers, then transposed convolutions as in the paper's generator.

    LeakyReLU 0.3 after all layers but the last; no tanh at the end.

    Args:
        code: entries of h.
        channels: of the images.
        side: of the images, pixels, a multiple of 4.
        width: channels of the maps, side / 4 and side / 2 pixels wide.
        hidden: units of the layer between code and map.
    Raises:
        ValueError: another side.
    """

    def __init__(self, code: int = 128, channels: int = 1, side: int = 28, width: int = 32, hidden: int = 256) -> None:
        super().__init__()
        if side % 4:
            raise ValueError(f"side={side}: expected a multiple of 4")
        self.code = code
        start = side // 4
        self.layers = nn.Sequential(
            nn.Linear(code, hidden),
            nn.LeakyReLU(0.3),
            nn.Linear(hidden, width * start * start),
            nn.LeakyReLU(0.3),
            nn.Unflatten(1, (width, start, start)),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.3),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
        )

    def forward(self, h: Tensor) -> Tensor:
        """h (B, code) -> images (B, channels, side, side)."""
        return self.layers(h)


class SmallDiscriminator(nn.Module):
    """D for small images: convolutions on the image, a layer on the code, two logits (generated, real) of both.

    Args:
        code: entries of h.
        channels: of the images.
        width: channels of the first convolution.
        dropout: before each of the last two layers.
    """

    def __init__(self, code: int = 128, channels: int = 1, width: int = 12, dropout: float = 0.5) -> None:
        super().__init__()
        self.image = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.3),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.3),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            nn.LeakyReLU(0.3),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        self.code = nn.Sequential(nn.Linear(code, 64), nn.LeakyReLU(0.3))
        self.head = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(16 * width + 64, 64),
            nn.LeakyReLU(0.3),
            nn.Dropout(dropout),
            nn.Linear(64, 2),
        )

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Images (B, C, S, S) and the codes they belong to (B, code) -> logits (B, 2)."""
        return self.head(torch.cat([self.image(x), self.code(h)], 1))


class DenseDenoiser(nn.Sequential):
    """R_h of PPGN-h: a perceptron, code to code.

    Args:
        code: entries of h.
        widths: of the hidden layers, each followed by a ReLU; the paper has seven.
    """

    def __init__(self, code: int, widths: tuple[int, ...] = (4096, 2048, 1024, 500, 1024, 2048, 4096)) -> None:
        layers: list[nn.Module] = []
        inputs = code
        for width in widths:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        super().__init__(*layers, nn.Linear(inputs, code))


class PixelDenoiser(nn.Sequential):
    """R_x of PPGN-x: images to images of the same size, through maps of half and of a quarter of the side.

    Args:
        channels: of the images.
        width: channels of the first convolution.
        size: of the images, pixels; the output is cropped to it.
    """

    def __init__(self, channels: int = 1, width: int = 32, size: int = 28) -> None:
        super().__init__(
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1),
        )
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, size, size) -> the same."""
        return super().forward(x)[..., : self.size, : self.size]
