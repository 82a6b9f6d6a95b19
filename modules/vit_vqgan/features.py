"""A classifier trained on the real images, whose features stand in for Inception-v3's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.common.classifier import Classifier
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule
from modules.vit_vqgan.pixels import PixelModule


class FeatureClassifier(PixelModule, Classifier):
    """A small classifier trained on the real images, whose last hidden layer gives features for Frechet distances.

    Args:
        network: ends in a linear layer; what enters it are the features.
        suffix: of the metrics' names, e.g. "_convnet": not empty, since its numbers are no standard FID.
        classes, optimizer, schedule: see Classifier.
    """

    network: nn.Sequential

    def __init__(
        self,
        network: nn.Sequential,
        classes: int,
        suffix: str,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if not suffix:
            raise ValueError("suffix='': expected a name such as '_convnet'; plain `fid` means Inception-v3")
        super().__init__(network, classes, optimizer=optimizer, schedule=schedule)
        last = network[-1]
        if not isinstance(last, nn.Linear):
            raise ValueError(f"network ends in {type(last).__name__}; expected a Linear, whose input are the features")
        self.suffix = suffix
        self.features = last.in_features

    def describe(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) in [0, 1] -> features (B, d), logits (B, classes), in fp32."""
        with torch.autocast(pixels.device.type, enabled=False):
            features = pixels.float()
            for layer in [*self.network][:-1]:  # a slice of a Sequential's subclass would call its constructor
                features = layer(features)
            return features, self.network[-1](features)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(self.pixels(x))
