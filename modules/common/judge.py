"""Who judges generated images: a classifier that neither made nor steered them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.common.classifier import Classifier
from modules.common.module import OptimizerFactory
from modules.common.schedules import Schedule


class Judge(Classifier):
    """A classifier of real images that nobody generates from; what enters its last layer are its features.

    Args:
        network: ends in a linear layer.
        classes: number of classes.
        suffix: of the metrics' names: not empty, since its numbers are no standard FID.
        optimizer, schedule: see StageModule.
    Raises:
        ValueError: no suffix, or another last layer.
    """

    network: nn.Sequential

    def __init__(
        self,
        network: nn.Sequential,
        classes: int,
        suffix: str = "_judge",
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        if not suffix:
            raise ValueError("suffix='': expected a name such as '_judge'; plain `fid` means Inception-v3")
        super().__init__(network, classes, optimizer=optimizer, schedule=schedule)
        last = network[-1]
        if not isinstance(last, nn.Linear):
            raise ValueError(f"network ends in {type(last).__name__}; expected a Linear, whose input are the features")
        self.suffix = suffix
        self.features = last.in_features

    def describe(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images as the data serves them (B, C, S, S) -> features (B, d), logits (B, classes), no lower precision."""
        *inner, last = self.network  # a slice of a Sequential's subclass would call its constructor
        assert isinstance(last, nn.Linear)
        with torch.autocast(x.device.type, enabled=False):
            features = x.to(last.weight.dtype)
            for layer in inner:
                features = layer(features)
            return features, last(features)
