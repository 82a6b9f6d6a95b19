"""G-SimCLR's networks (arXiv 2009.12007): the autoencoder, the CIFAR-10 encoder and the projection head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int], nn.Module]  # number of channels -> normalisation
PROBES = ("p1", "p2", "p3")  # after the head's second layer, after its first, before the head


class Autoencoder(nn.Module):
    """Convolutions that halve the image at every level, and their mirror image.

    The encoder has (convolution, batch norm, ReLU, 2x2 max-pooling) for each of `filters`; the decoder has (nearest
    up-sampling, convolution, batch norm, ReLU) for each of them in reverse, then a convolution to the image, sigmoid.
    Up-sampling goes to the side that the encoder had at that level, which is twice the side where that is even.

    Args:
        in_channels: of the images.
        filters: channels of each level.
        kernel: side of all convolutions.
        norm: makes a normalisation layer.
    """

    def __init__(
        self,
        in_channels: int = 3,
        filters: Sequence[int] = (32, 64, 128),
        kernel: int = 3,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        filters = list(filters)
        self.num_features = filters[-1]
        self.encoder = nn.ModuleList(_unit(i, o, kernel, norm) for i, o in pairwise([in_channels, *filters]))
        reverse = filters[::-1]
        self.decoder = nn.ModuleList(_unit(i, o, kernel, norm) for i, o in pairwise([reverse[0], *reverse]))
        self.output = nn.Conv2d(filters[0], in_channels, kernel, padding="same")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def bottleneck(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, C, H, W) -> (B, D, h, w), and the maps before each pooling."""
        maps = []
        for unit in self.encoder:
            maps.append(unit(x))
            x = F.max_pool2d(maps[-1], 2)
        return x, maps

    def embed(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D): global average of the bottleneck, not normalised."""
        return self.bottleneck(x)[0].mean((-2, -1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> reconstruction of the same shape, in (0, 1)."""
        x, maps = self.bottleneck(x)
        for unit, level in zip(self.decoder, reversed(maps), strict=True):
            x = unit(F.interpolate(x, level.shape[-2:]))
        return self.output(x).sigmoid()


def _unit(i: int, o: int, kernel: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, kernel, padding="same"), norm(o), nn.ReLU(inplace=True))


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions, all with bias, batch norm and ReLU after each but the last.

    The shortcut of a group's first block is a 1x1 convolution without batch norm; ReLU comes after the sum.
    """

    def __init__(self, i: int, middle: int, o: int, stride: int, first: bool, norm: Norm) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(i, middle, 1),
            norm(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, middle, 3, stride, padding=1),
            norm(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, o, 1),
            norm(o),
        )
        self.shortcut = nn.Conv2d(i, o, 1, stride) if first else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual(x) + self.shortcut(x))


class CifarResNet(nn.Module):
    """The encoder of CIFAR-10: a v1 bottleneck network of three groups, here called for its average-pooled output.

    Args:
        in_channels: of the images.
        stem: channels of the first 3x3 convolution.
        stem_stride: its stride.
        widths: output channels of the groups; the inner width of a group is the output width of what comes before it.
        blocks: of each group.
        norm: makes a normalisation layer.
    """

    def __init__(
        self,
        in_channels: int = 3,
        stem: int = 16,
        stem_stride: int = 1,
        widths: Sequence[int] = (64, 128, 256),
        blocks: int = 4,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.num_features = widths[-1]
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem, 3, stem_stride, padding=1), norm(stem), nn.ReLU(inplace=True)
        )
        layers: list[nn.Module] = []
        for group, (middle, o) in enumerate(pairwise([stem, *widths])):
            for block in range(blocks):
                stride = 2 if group and not block else 1
                layers.append(Bottleneck(o if block else middle, middle, o, stride, not block, norm))
        self.groups = nn.Sequential(*layers)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D, H / 4, W / 4)."""
        return self.groups(self.stem(x))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D)."""
        return self.forward_features(x).mean((-2, -1))


class ProjectionHead(nn.Module):
    """Linear layers with biases and ReLU between them, no batch norm: D -> 256 -> 128 -> 50.

    Args:
        inputs: D.
        widths: of the layers, the output last.
    """

    def __init__(self, inputs: int, widths: Sequence[int] = (256, 128, 50)) -> None:
        super().__init__()
        if len(widths) != 3:
            raise ValueError(f"widths has {len(widths)} entries; expected 3, two hidden layers and the output")
        self.first, self.second, self.last = (nn.Linear(i, o) for i, o in pairwise([inputs, *widths]))
        self.widths = dict(zip(PROBES, (widths[1], widths[0], inputs), strict=True))

    def probed(self, h: Tensor) -> dict[str, Tensor]:
        """(B, D) -> what the probes P1, P2 and P3 see: (B, 128), (B, 256) and (B, D)."""
        hidden = self.first(h).relu()
        return {"p1": self.second(hidden).relu(), "p2": hidden, "p3": h}

    def forward(self, h: Tensor) -> Tensor:
        """(B, D) -> (B, 50), not normalised."""
        return self.last(self.probed(h)["p1"])
