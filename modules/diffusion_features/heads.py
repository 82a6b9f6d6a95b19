"""Classifiers of a block's map: linear, MLP, CNN and attention (arXiv 2307.08702).

All are made from the map's shape and the number of classes. The released code fixes the linear, MLP and attention
heads; of the CNN only its name is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.unet import Shape

HeadFactory = Callable[[Shape, int], nn.Module]  # (C, H, W) of the map, number of classes


def mlp(shape: Shape, classes: int, pool: int = 1, hidden: Sequence[int] = ()) -> nn.Module:
    """The map averaged down to pool x pool places, flattened; hidden ReLU layers, and one linear layer.

    Without hidden layers it is the linear head.
    """
    side = min(pool, shape[1])
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(side), nn.Flatten()]
    widths = [shape[0] * side**2, *hidden]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))


def cnn(shape: Shape, classes: int, pool: int = 16, channels: Sequence[int] = (512, 512)) -> nn.Module:
    """3x3 convolutions with batch norm and ReLU on the map at pool x pool places, their mean, one linear layer."""
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(min(pool, shape[1]))]
    widths = [shape[0], *channels]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and a GELU layer four times as wide; queries, keys and values have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) -> the same."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, N, c)
        x = x + self.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class AttentionHead(nn.Module):
    """The map's places as tokens, a class token that starts at 0, transformer blocks, one linear layer on that token.

    Places are normalised together and projected to `width`; tokens have no positions, and no norm comes last.

    Args:
        shape: of the map.
        classes: number of outputs.
        pool: side of the map that is attended to, at most the map's own.
        width: of the tokens.
        blocks, heads: of the transformer.
    """

    def __init__(
        self, shape: Shape, classes: int, pool: int = 16, width: int = 1024, blocks: int = 2, heads: int = 8
    ) -> None:
        super().__init__()
        side = min(pool, shape[1])
        self.pool = nn.AdaptiveAvgPool2d(side)
        self.norm = nn.LayerNorm([shape[0], side, side])
        self.project = nn.Conv2d(shape[0], width, 1)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(blocks)))
        self.classify = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, classes)."""
        tokens = self.project(self.norm(self.pool(x))).flatten(2).transpose(1, 2)  # (B, side^2, width)
        tokens = torch.cat([self.token.expand(len(x), -1, -1), tokens], dim=1)
        return self.classify(self.blocks(tokens)[:, 0])
