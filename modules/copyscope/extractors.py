"""What images are described with: features for the Frechet distance, and statistics of early maps for their style."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.extractors import InceptionV3
from modules.common.frozen import Frozen
from modules.common.module import StageModule
from modules.common.needs import inception_of_2015, torchvision_weights
from modules.common.pretrained import EfficientNetLite
from modules.copyscope.scores import channel_statistics


class LiteFeatures(StageModule):
    """EfficientNet-Lite with ImageNet weights: nobody trained it on a gallery. Not trained.

    Test metric: `length`, of the mean features of the test images, which lie in [-1, 1].

    Args:
        number: 0, 1 or 2.
        side: input side of the network, pixels.
        pretrained: load the installed weights.
    """

    def __init__(self, number: int = 0, side: int = 64, pretrained: bool = True) -> None:
        super().__init__()
        self.suffix = f"_lite{number}"
        self.network = EfficientNetLite(number, pretrained, side)
        self.features = 1280
        self._described: list[Tensor] = []

    def on_test_epoch_start(self) -> None:
        self._described = []

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self._described.append(self((batch.x + 1) / 2))

    def on_test_epoch_end(self) -> None:
        self.log("test/length", torch.cat(self._described).mean(0).norm())
        self._described = []

    def describe(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, S, S) in [0, 1] -> pooled features (B, 1280), style statistics (B, k), single precision."""
        with torch.autocast(pixels.device.type, enabled=False):
            network: Any = self.network.network
            x = F.interpolate(pixels.float(), (self.network.side,) * 2, mode="nearest")
            x = (x - self.network.mean) / self.network.std
            x = x.contiguous(memory_format=torch.channels_last)
            x = network.bn1(network.conv_stem(x))
            styles = []
            for number, stage in enumerate(network.blocks):
                x = stage(x)
                if number < 3:
                    styles.append(channel_statistics(x))
            x = network.bn2(network.conv_head(x))
            return x.mean((2, 3)), torch.cat(styles, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.describe(x)[0]


VGG_RELU = (1, 6, 11, 20)  # relu1_1, relu2_1, relu3_1, relu4_1 among VGG-19's layers, as AdaIN takes


class InceptionFeatures(InceptionV3):
    """Inception-v3 for FID, and VGG-19 at AdaIN's four layers for the style.

    Args:
        pretrained: fetch the weights of both; random otherwise, for dry runs.
    """

    def __init__(self, pretrained: bool = True) -> None:
        super().__init__(pretrained)
        from torchvision.models import VGG19_Weights, vgg19

        weights = VGG19_Weights.IMAGENET1K_V1 if pretrained else None
        self.style_network = Frozen([vgg19(weights=weights).features[: VGG_RELU[-1] + 1]])

    def describe(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        features = super().describe(pixels)[0]
        return features.float(), self.style(pixels)

    def style(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> channel statistics of the four layers (B, 1920)."""
        (layers,) = self.style_network.on(pixels.device)
        mean = pixels.new_tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        std = pixels.new_tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        x = (pixels.expand(-1, 3, -1, -1) - mean) / std
        statistics = []
        for number, layer in enumerate(layers):
            x = nn.functional.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
            if number in VGG_RELU:
                statistics.append(channel_statistics(x))
        return torch.cat(statistics, dim=1)


NEEDS = {"InceptionFeatures": lambda options: [*inception_of_2015(options), *torchvision_weights("vgg19")(options)]}
