"""The factorised, normalised codebook of ViT-VQGAN (arXiv 2110.04627)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.vit_vqgan.autoencoder import initialise


def vq_loss(z: Tensor, e: Tensor, beta: float = 0.25) -> Tensor:
    """L_VQ, the mean over tokens and dimensions: codes move to the encoder's output, and beta times as strongly back.

    z, e (..., d): what was looked up and the nearest codes, both normalised or both not.
    """
    return F.mse_loss(e, z.detach()) + beta * F.mse_loss(z, e.detach())


class Quantizer(nn.Module):
    """Down to `lookup_dim`, nearest code, up again. Learned by L_VQ alone.

    Args:
        dim_in, dim_out: of encoder and decoder.
        codes: K.
        lookup_dim: d_c.
        normalise: look up and decode on the unit sphere.
        init: of the codebook, "normal" N(0, 1) or "uniform" U(-1/K, 1/K), VQ-VAE's.
        beta: commitment.
        over_normalisation: the straight-through step hands the decoder's gradient to z_e, as in re-implementations, and
            not to l2(z_e). The values are the same, but fewer codes come into use.
    Raises:
        ValueError: init has no such value.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        codes: int,
        lookup_dim: int,
        normalise: bool = True,
        init: str = "normal",
        beta: float = 0.25,
        over_normalisation: bool = False,
    ) -> None:
        super().__init__()
        if init not in ("normal", "uniform"):
            raise ValueError(f"init={init!r}: expected normal or uniform")
        self.normalise = normalise
        self.beta = beta
        self.over_normalisation = over_normalisation

        self.down = nn.Linear(dim_in, lookup_dim)
        self.up = nn.Linear(lookup_dim, dim_out)
        self.apply(initialise)

        codebook = torch.randn(codes, lookup_dim)
        if init == "uniform":
            codebook.uniform_(-1 / codes, 1 / codes)
        self.codebook = nn.Parameter(codebook)

    def project(self, x: Tensor) -> Tensor:
        """(..., d), in fp32: onto the unit sphere where the lookup is normalised."""
        return F.normalize(x.float(), dim=-1) if self.normalise else x.float()

    def nearest(self, z: Tensor, e: Tensor) -> Tensor:
        """(..., d) and (K, d) -> (...): argmin_k |z - e_k|^2, which drops |z|^2, and |e_k|^2 on the unit sphere."""
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):  # bf16 would pick other codes
            scores = z.flatten(0, -2) @ e.T
            if not self.normalise:
                scores -= 0.5 * e.square().sum(-1)
            return scores.argmax(-1).view(z.shape[:-1])

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, dim_in) -> decoder input (B, T, dim_out), codes (B, T), L_VQ."""
        z_e = self.down(h).float()  # (B, T, d)
        z = self.project(z_e)
        e = self.project(self.codebook)  # (K, d)

        codes = self.nearest(z, e)  # (B, T)
        z_q = F.embedding(codes, e)  # (B, T, d)

        looked_up = z_e if self.over_normalisation else z
        straight_through = looked_up + (z_q - looked_up).detach()
        return self.up(straight_through), codes, vq_loss(z, z_q, self.beta)

    def decode(self, codes: Tensor) -> Tensor:
        """(B, T) -> decoder input (B, T, dim_out)."""
        return self.up(self.project(F.embedding(codes, self.codebook)))
