"""The released augmentation of G-SimCLR tosses its coins once for a whole batch (arXiv 2009.12007)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.common.augment import Augmentation
from datamodules.common.base import Draws


@dataclass(frozen=True)
class Shared(Draws):
    """Random numbers that all images of a batch share, on however many processes it lies."""

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(b, *shape) in [low, high), all rows alike."""
        return (torch.rand((1, *shape), generator=self.source) * (high - low) + low).expand(self.count, *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """(b, *shape) whole numbers in [0, high), all rows alike."""
        return torch.randint(high, (1, *shape), generator=self.source).expand(self.count, *shape)


class Batchwise:
    """An operation done alike to all images of a batch, or to none of them.

    Args:
        operation: draws its numbers per image otherwise.
    """

    def __init__(self, operation: Augmentation) -> None:
        self.operation = operation

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return self.operation(images, Shared(draws.source, draws.total, draws.start, draws.count))
