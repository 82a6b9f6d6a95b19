"""The released augmentation of G-SimCLR: coins tossed once for a whole batch, jitter of its own (arXiv 2009.12007)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.common.augment import Augmentation
from datamodules.common.base import Draws
from datamodules.common.simclr_augment import adjust_contrast, adjust_hue, adjust_saturation


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


class AdditiveJitter:
    """Brightness, contrast, saturation and hue in this order, with probability p, and one clip to [0, 1] at the end:

        brightness + U(-0.8 s, 0.8 s), contrast and saturation times U(1 - 0.8 s, 1 + 0.8 s), hue + U(-0.2 s, 0.2 s)

    SimCLR's own jitter (common.simclr_augment) multiplies the brightness, draws the order and clips after each step.
    Source: `_color_jitter` of the released notebooks, s = 0.2 on CIFAR-10 and 1 on photos. Images have three channels.

    Args:
        strength: s, from 0 to 1.25, where factors begin at 0.
        p: probability for an image to be changed at all.
    Raises:
        ValueError: a strength outside its range.
    """

    def __init__(self, strength: float, p: float) -> None:
        if not 0 <= strength <= 1.25:
            raise ValueError(f"strength={strength}: expected 0 to 1.25")
        self.strength, self.p = strength, p

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        chosen = draws.uniform() < self.p  # (B,)
        reach = 0.8 * self.strength
        added = draws.uniform(low=-reach, high=reach)
        contrast, saturation = draws.uniform(2, low=1 - reach, high=1 + reach).unbind(1)
        turn = draws.uniform(low=-0.2 * self.strength, high=0.2 * self.strength)

        rows = chosen.nonzero().flatten()
        amounts = [amount[rows].to(images.device) for amount in (added, contrast, saturation, turn)]
        rows = rows.to(images.device)
        changed = images.index_select(0, rows) + amounts[0].view(-1, 1, 1, 1)
        changed = adjust_contrast(changed, amounts[1])
        changed = adjust_saturation(changed, amounts[2])
        changed = adjust_hue(changed, amounts[3])
        return images.index_copy(0, rows, changed.clamp(0, 1))
