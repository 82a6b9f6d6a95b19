"""DCGAN's two networks (Radford et al. 2016, arXiv 1511.06434), as plain stacks of layers.

A generator doubles the side of its maps and halves their channels up to the image; a discriminator does the reverse.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrizations import spectral_norm


def doublings(size: int, start: int) -> int:
    """How often a side of `start` pixels is doubled to become `size`.

    Raises:
        ValueError: it does not become that, or is not doubled at all.
    """
    times = (size // start).bit_length() - 1
    if size != start * 2**times or times < 1:
        raise ValueError(f"size={size}: expected start={start} times 2, 4, 8, ...")
    return times


@torch.no_grad()
def init_dcgan(network: nn.Module) -> None:
    """Convolutions from N(0, 0.02), batch norms' scales from N(1, 0.02)."""
    for layer in network.modules():
        if isinstance(layer, _ConvNd):
            layer.weight.normal_(0.0, 0.02)
        elif isinstance(layer, _BatchNorm):
            layer.weight.normal_(1.0, 0.02)
            layer.bias.zero_()


class Generator(nn.Sequential):
    """Noise (B, code) -> images (B, channels, size, size) in [-1, 1]. No layer has a bias.

    Args:
        size: side of the images, `start` times a power of 2.
        code: entries of the noise.
        width: channels of the last hidden map; each map before has twice as many.
        channels: of the images.
        start: side of the first map.
    Raises:
        ValueError: size is not start times 2, 4, 8, ...
    """

    def __init__(self, size: int, code: int, width: int, channels: int = 3, start: int = 4) -> None:
        times = doublings(size, start)
        self.code = code
        maps = width * 2 ** (times - 1)
        layers: list[nn.Module] = [
            nn.Unflatten(1, (code, 1, 1)),
            nn.ConvTranspose2d(code, maps, start, bias=False),
            nn.BatchNorm2d(maps),
            nn.ReLU(),
        ]
        for _ in range(times - 1):
            layers += [
                nn.ConvTranspose2d(maps, maps // 2, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(maps // 2),
                nn.ReLU(),
            ]
            maps //= 2
        super().__init__(
            *layers,
            nn.ConvTranspose2d(maps, channels, 4, stride=2, padding=1, bias=False),
            nn.Tanh(),
        )
        self.code = code
        init_dcgan(self)


class DiscriminatorBody(nn.Sequential):
    """Images (B, channels, size, size) -> features (B, features), a map of side `start` flattened. No layer has a bias.

    Every convolution is spectrally normalised: it stretches no distance (Miyato et al. 2018).

    Args:
        size: side of the images, `start` times a power of 2.
        width: channels of the first map; each map after it has twice as many.
        channels: of the images.
        start: side of the last map.
    Raises:
        ValueError: size is not start times 2, 4, 8, ...
    """

    def __init__(self, size: int, width: int, channels: int = 3, start: int = 4) -> None:
        layers: list[nn.Module] = []
        maps = channels
        for number in range(doublings(size, start)):
            wider = width * 2**number
            layers += [nn.Conv2d(maps, wider, 4, stride=2, padding=1, bias=False), nn.LeakyReLU(0.2)]
            maps = wider
        super().__init__(*layers, nn.Flatten())
        self.features = maps * start**2
        init_dcgan(self)
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                spectral_norm(layer)
