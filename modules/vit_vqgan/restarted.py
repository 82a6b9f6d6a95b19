"""A codebook whose unused codes start again at outputs of the encoder: what a plain codebook needs to be used whole."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from modules.common.distributed import gather, summed
from modules.vit_vqgan.quantizer import Quantizer


class RestartedQuantizer(Quantizer):
    """A Quantizer with random restarts, as Jukebox has them (Dhariwal et al., arXiv 2005.00341, section 3.1).

    Before each lookup in training, every code whose use, a running mean over batches, is below a threshold is set to a
    random output of the encoder for this batch. What the optimiser remembers of that code stays.

    Args:
        dim_in, dim_out, codes, lookup_dim, options: of the Quantizer.
        decay: of the running mean; Jukebox's.
        threshold: tokens of a batch that have to look a code up; Jukebox's.
    """

    usage: Tensor

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        codes: int,
        lookup_dim: int,
        decay: float = 0.99,
        threshold: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(dim_in, dim_out, codes, lookup_dim, **options)
        self.decay = decay
        self.threshold = threshold
        self.register_buffer("usage", torch.ones(codes))  # tokens of a batch, of all processes

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As Quantizer's; in training, unused codes move first."""
        if not self.training:
            return super().forward(h)
        self._restart_unused(h)
        decoded, codes, loss = super().forward(h)
        counts = summed(torch.bincount(codes.flatten(), minlength=len(self.usage)).to(self.usage))
        self.usage = torch.lerp(counts, self.usage, self.decay)
        return decoded, codes, loss

    @torch.no_grad()
    def _restart_unused(self, h: Tensor) -> None:
        unused = self.usage < self.threshold
        if not unused.any():
            return
        z_e = gather(self.down(h).float().flatten(0, -2))  # (N, d), of all processes
        drawn = torch.randint(len(z_e), (len(unused),), device=z_e.device)  # for each code, whichever are unused
        self.codebook.copy_(torch.where(unused[:, None], z_e[drawn], self.codebook))
