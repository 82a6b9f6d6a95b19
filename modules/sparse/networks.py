"""SPARSE's three networks: an attention U-Net G that translates and classifies, a critic D with a class head, C."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.needs import torchvision_weights


class ConvBlock(nn.Sequential):
    """Twice a 3x3 convolution with batch norm and ReLU; keeps the size."""

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class AttentionGate(nn.Module):
    """What of the skip connection passes, told by the decoder's map g.

        a = sigmoid(psi(ReLU(BN(W_g g) + BN(W_s s)))) * s,    all three 1x1 convolutions

    Args:
        coarse: channels of g, which is up-sampled already.
        fine: channels of s, of the gate in between and of the result.
    """

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.of_coarse = nn.Sequential(nn.Conv2d(coarse, fine, 1), nn.BatchNorm2d(fine))
        self.of_fine = nn.Sequential(nn.Conv2d(fine, fine, 1), nn.BatchNorm2d(fine))
        self.psi = nn.Conv2d(fine, fine, 1)

    def forward(self, g: Tensor, s: Tensor) -> Tensor:
        """g (B, coarse, H, W), s (B, fine, H, W) -> (B, fine, H, W)."""
        return torch.sigmoid(self.psi(F.relu(self.of_coarse(g) + self.of_fine(s)))) * s


class Up(nn.Module):
    """One stage of the decoder: twice the side, gated skip connection, two convolutions."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.gate = AttentionGate(coarse, fine)
        self.block = ConvBlock(coarse + fine, fine)

    def forward(self, x: Tensor, s: Tensor) -> Tensor:
        """x (B, coarse, H, W), s (B, fine, 2H, 2W) -> (B, fine, 2H, 2W)."""
        g = self.up(x)
        return self.block(torch.cat([g, self.gate(g, s)], 1))


class Translator(nn.Module):
    """G: an attention U-Net with two first stages, one for images with an asked class and one for images alone.

    Everything behind the first stage is shared. The translated image has no final activation.

    Args:
        classes: K.
        channels: of the images.
        widths: channels of the encoder's stages, each followed by a 2x2 max-pooling, and of the bottleneck.
    """

    def __init__(self, classes: int, channels: int = 3, widths: Sequence[int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        first, *inner, bottleneck = widths
        self.classes = classes
        self.first_asked = ConvBlock(channels + classes, first)
        self.first_plain = ConvBlock(channels, first)
        stages = [first, *inner]
        self.encoder = nn.ModuleList(ConvBlock(a, b) for a, b in pairwise(stages))
        self.bottleneck = ConvBlock(stages[-1], bottleneck)
        coarse = [*stages[1:], bottleneck]
        self.decoder = nn.ModuleList(Up(a, b) for a, b in zip(reversed(coarse), reversed(stages), strict=True))
        self.last = nn.Conv2d(first, channels, 1)
        self.tail = nn.Linear(bottleneck, classes)

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The first stage's map (B, w, H, W) -> bottleneck and the maps of all stages."""
        maps = [x]
        for stage in self.encoder:
            maps.append(stage(F.max_pool2d(maps[-1], 2)))
        return self.bottleneck(F.max_pool2d(maps[-1], 2)), maps

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Images (B, C, H, W) as of the asked classes z (B,), int64 -> (B, C, H, W)."""
        planes = F.one_hot(z, self.classes).to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        h, maps = self.encode(self.first_asked(torch.cat([x, planes], 1)))
        for stage, s in zip(self.decoder, reversed(maps), strict=True):
            h = stage(h, s)
        return self.last(h)

    def classify(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) -> the tail's logits (B, K)."""
        h, _ = self.encode(self.first_plain(x))
        return self.tail(h.mean((2, 3)))


class Critic(nn.Module):
    """D: strided convolutions without norm, then a patch critic and, apart from it, a class head.

    Args:
        classes: K.
        channels: of the images.
        widths: channels of the convolutions, each of which halves the side.
        side: of the images, pixels; the class head covers the whole last map.
    Raises:
        ValueError: the side cannot be halved so often.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512, 1024, 2048),
        side: int = 128,
    ) -> None:
        super().__init__()
        if side % 2 ** len(widths):
            raise ValueError(
                f"side={side}: expected a multiple of {2 ** len(widths)}, which {len(widths)} widths halve"
            )
        layers: list[nn.Module] = []
        for inputs, outputs in zip([channels, *widths], widths, strict=False):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.01)]
        self.body = nn.Sequential(*layers)
        self.patch = nn.Conv2d(widths[-1], 1, 3, padding=1, bias=False)
        self.category = nn.Conv2d(widths[-1], classes, side // 2 ** len(widths), bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, S, S) -> patch scores (B, 1, s, s), logits (B, K)."""
        h = self.body(x)
        return self.patch(h), self.category(h).flatten(1)

    def scores(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> patch scores (B, 1, s, s)."""
        return self.patch(self.body(x))

    def classify(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> logits (B, K)."""
        return self.category(self.body(x)).flatten(1)


@dataclass(frozen=True)
class Networks:
    """The three that learn in turns.

    Attributes:
        generator: G.
        discriminator: D.
        classifier: C, images (B, C, H, W) to logits (B, K).
    """

    generator: Translator
    discriminator: Critic
    classifier: nn.Module


def efficientnet_b3(classes: int, pretrained: bool = True) -> nn.Module:
    """C: torchvision's EfficientNet-B3 with a new last layer, behind dropout of 0.3.

    Args:
        classes: K.
        pretrained: fetch torchvision's ImageNet weights (47 MB), checked by their hash and read as plain tensors.
    """
    from torchvision import models

    network = models.efficientnet_b3(weights=None)
    if pretrained:
        url = models.EfficientNet_B3_Weights.IMAGENET1K_V1.url
        network.load_state_dict(torch.hub.load_state_dict_from_url(url, check_hash=True, weights_only=True))
    network.classifier = nn.Sequential(nn.Dropout(0.3), nn.Linear(1536, classes))
    return network


NEEDS = {"efficientnet_b3": torchvision_weights("efficientnet_b3")}
