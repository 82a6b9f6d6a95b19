"""The learning rate of TransHP's released recipe."""

from __future__ import annotations

import math

from modules.common.schedules import Position


def deit_cosine(
    position: Position, base: float = 1e-3, final: float = 1e-5, warmup: float = 1e-6, warmup_epochs: int = 5
) -> float:
    """The rate of the released recipe as a factor on `base`: constant within an epoch, as timm 0.4.12 has it.

    Linear from `warmup` over `warmup_epochs`, then half a cosine to `final` that began at epoch 0. The training loop
    sets an epoch's rate from the number of the epoch before. It stops before the ten epochs of cool-down.
    """
    t = max(0, position.epoch - 1)
    if t < warmup_epochs:
        return (warmup + t * (base - warmup) / warmup_epochs) / base
    return (final + 0.5 * (base - final) * (1 + math.cos(math.pi * t / position.max_epochs))) / base
