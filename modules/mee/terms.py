"""What is added to MaF-GAN's adversarial term."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from modules.mee.entropy import Entropy
from modules.mee.losses import Mixing


@dataclass(frozen=True)
class Terms:
    """The terms that the arms differ in; None leaves one out.

    Attributes:
        mixing: DIsoMap's.
        neighbours: DLLE's augmentation of a batch of images.
        entropy: L_ent of both players.
    """

    mixing: Mixing | None = None
    neighbours: Callable[[Tensor], Tensor] | None = None
    entropy: Entropy | None = None
