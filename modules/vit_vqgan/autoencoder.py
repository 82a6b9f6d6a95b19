"""The Transformers of ViT-VQGAN (Yu et al., arXiv 2110.04627): their block, and stage 1's autoencoder without codes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Size:
    """Of a Transformer. Heads of the paper are 64 wide, so Large is 1024 wide inside its attention and 1280 outside."""

    dim: int
    blocks: int
    heads: int
    mlp_dim: int
    head_width: int = 64


class Block(nn.Module):
    """Pre-norm attention and MLP. Dropout on the residuals, in the MLP and on the attention."""

    def __init__(self, size: Size, causal: bool, dropout: float = 0.0, activation: str = "gelu") -> None:
        super().__init__()
        self.heads = size.heads
        self.causal = causal
        self.dropout = dropout

        inner = size.heads * size.head_width
        self.norm_1 = nn.LayerNorm(size.dim)
        self.norm_2 = nn.LayerNorm(size.dim)
        self.qkv = nn.Linear(size.dim, 3 * inner, bias=False)
        self.out = nn.Linear(inner, size.dim)
        self.mlp = nn.Sequential(
            nn.Linear(size.dim, size.mlp_dim),
            nn.GELU() if activation == "gelu" else nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(size.mlp_dim, size.dim),
        )
        self.residual = nn.Dropout(dropout)

    def forward(self, x: Tensor, cache: Tensor | None = None, position: int = 0) -> Tensor:
        """(B, T, dim) -> the same. With a cache (2, B, heads, T_max, width), x is the one token at `position`."""
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, T, width)
        if cache is None:
            p = self.dropout if self.training else 0.0
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=self.causal)
        else:
            cache[0, :, :, position : position + 1] = k
            cache[1, :, :, position : position + 1] = v
            k, v = cache[:, :, :, : position + 1]  # (B, heads, position + 1, width)
            y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.residual(self.out(y.transpose(1, 2).reshape(b, t, -1)))
        return x + self.residual(self.mlp(self.norm_2(x)))


def initialise(layer: nn.Module) -> None:
    """As ViT does: Glorot-uniform weights, no biases. With torch's own biases all tokens start in one direction."""
    if isinstance(layer, nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


class ViTAutoencoder(nn.Module):
    """Stage 1's two Transformers. Full attention, learned positions, no class token, no activation at either end.

    Args:
        image_size, channels: of the images.
        patch: side of a patch, one token.
        encoder, decoder: sizes.
        maps: output maps per channel: 1, or 2 for (mu, ln b) of logit-laplace.
        activation: of the blocks, "gelu" or "tanh".
        output_mlp: the two-layer tanh MLP at the end of both.
    Raises:
        ValueError: image and patch do not fit.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        patch: int,
        encoder: Size,
        decoder: Size,
        maps: int = 1,
        activation: str = "gelu",
        output_mlp: bool = True,
    ) -> None:
        super().__init__()
        if image_size % patch:
            raise ValueError(f"image_size={image_size} is no multiple of patch={patch}")
        self.patch = patch
        self.side = image_size // patch
        self.maps = maps

        def transformer(size: Size) -> nn.Sequential:
            blocks = [Block(size, causal=False, activation=activation) for _ in range(size.blocks)]
            end = [nn.Linear(size.dim, size.mlp_dim), nn.Tanh(), nn.Linear(size.mlp_dim, size.dim)]
            return nn.Sequential(*blocks, nn.LayerNorm(size.dim), *(end if output_mlp else []))

        self.patches = nn.Linear(channels * patch**2, encoder.dim)
        self.encoder_positions = nn.Parameter(torch.randn(self.side**2, encoder.dim) * 0.02)
        self.encoder = transformer(encoder)
        self.decoder_positions = nn.Parameter(torch.randn(self.side**2, decoder.dim) * 0.02)
        self.decoder = transformer(decoder)
        self.to_pixels = nn.Linear(decoder.dim, maps * channels * patch**2)
        self.apply(initialise)

    def encode(self, x: Tensor) -> Tensor:
        """Pixels (B, C, H, W) -> tokens (B, T, dim of the encoder), in raster order."""
        patches = F.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2)  # (B, T, C p p)
        return self.encoder(self.patches(patches) + self.encoder_positions)  # (B, T, dim)

    def decode(self, h: Tensor) -> Tensor:
        """Tokens (B, T, dim of the decoder) -> maps (B, maps C, H, W)."""
        patches = self.to_pixels(self.decoder(h + self.decoder_positions))  # (B, T, maps C p p)
        patches = patches.transpose(1, 2).unflatten(2, (self.side, self.side))  # (B, maps C p p, side, side)
        return F.pixel_shuffle(patches, self.patch)
