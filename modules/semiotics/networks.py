"""The autoencoder that is a person, and classifiers of grey images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn


class Dense(nn.Sequential):
    """Linear layers on flattened images with an activation between them, (B, ...) -> (B, sizes[-1]).

    Args:
        sizes: of the input, of the hidden layers and of the output.
        activation: makes one.
    """

    def __init__(self, sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), activation()]
        super().__init__(*layers[:-1])


class Convolutional(nn.Sequential):
    """Two 3x3 convolutions of 16 and 32 channels, a hidden layer of 64, logits; ReLU, no normalisation.

    Args:
        size: side of the square grey images.
        strides: of the convolutions.
        classes: number of outputs.
    """

    def __init__(self, size: int, strides: tuple[int, int] = (2, 2), classes: int = 10) -> None:
        grid = math.ceil(math.ceil(size / strides[0]) / strides[1])
        super().__init__(
            nn.Conv2d(1, 16, 3, strides[0], padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, strides[1], padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * grid**2, 64),
            nn.ReLU(),
            nn.Linear(64, classes),
        )


class Autoencoder(nn.Module):
    """A = D E, linear layers with LeakyReLU; the middle layer is what is observed. Its output is not clamped to [0, 1].

    Args:
        pixels: of an image.
        width: of the hidden layers.
        hidden: number of hidden layers.
    Raises:
        ValueError: no hidden layer.
    """

    def __init__(self, pixels: int, width: int, hidden: int = 5) -> None:
        if hidden < 1:
            raise ValueError(f"hidden={hidden}: expected 1 or more layers")
        super().__init__()
        before, after = [width] * ((hidden + 1) // 2), [width] * (hidden // 2)
        self.encoder = nn.Sequential(Dense([pixels, *before], nn.LeakyReLU), nn.LeakyReLU())
        self.decoder = Dense([width, *after, pixels], nn.LeakyReLU)

    def forward(self, x: Tensor) -> Tensor:
        observed = self.encoder(x)  # (B, width)
        return self.decoder(observed).view_as(x)
