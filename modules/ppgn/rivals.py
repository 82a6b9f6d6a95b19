"""Priors that nobody learnt, in the place of E(G(h)): whether any pull that keeps codes in bounds would do as well.

untrained    R(h) = E(G_0(h)), G_0 the generator as it starts
shrinking    R(h) = 0
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modules.common.frozen import Frozen
from modules.common.module import StageModule
from modules.common.precision import at_least_single
from modules.ppgn.generator import crop
from modules.ppgn.networks import encode


class Prior(StageModule):
    """R of codes (B, code) to the same. Nothing is trained or tested.

    Args:
        encoder: the stage whose network is E.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = Frozen([encoder.network])
        self.code = int(encoder.network.code)

    def example(self, shape: tuple[int, ...]) -> tuple[Any, ...]:
        return (torch.zeros(1, self.code, device=self.device),)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return []


class Untrained(Prior):
    """The paper's prior, of a generator that met no image.

    Args:
        encoder: see Prior.
        generator: codes -> images at least as large as E's; it stays as it is.
        side: see Pair.
    """

    def __init__(self, encoder: Any, generator: nn.Module, side: int) -> None:
        super().__init__(encoder)
        self.generator = generator.requires_grad_(False)
        self.side = side

    def forward(self, h: Tensor) -> Tensor:
        """h (B, code) -> E(G_0(h))."""
        (encoder,) = self.encoder.on(h.device)
        return encode(encoder, crop(at_least_single(self.generator(h)), self.side))[1]


class Constant(Prior):
    """The same code whatever h is: a plain shrinking.

    Args:
        encoder: see Prior.
        value: of all its entries.
    """

    def __init__(self, encoder: Any, value: float = 0.0) -> None:
        super().__init__(encoder)
        self.value = value

    def forward(self, h: Tensor) -> Tensor:
        return torch.full_like(h, self.value)
