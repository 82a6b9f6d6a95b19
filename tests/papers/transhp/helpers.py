"""Networks, images and masks that the tests of TransHP share."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.transhp.networks import Blocks, PromptingBlock, ViT

SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
COARSE_CLASSES = (2, 2, 2, 4, 9, 16, 25, 49, 90, 170, 406)
LEVELS = [(block, m + 1) for block, m in enumerate(COARSE_CLASSES)]  # one class for "no ancestor"
WEIGHTS = [0.1] * 5 + [0.15] * 4 + [1.0, 1.0]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def published_network(size: str, levels: Any = (), coarse: str = "none", classes: int = 1000) -> ViT:
    dim, depth, heads = SIZES[size]
    return ViT(224, 16, classes, Blocks(dim, depth, heads), levels, coarse)


def small_network(coarse: str = "prompts", levels: Any = ((1, 5),), seed: int = 0, **options: Any) -> ViT:
    torch.manual_seed(seed)
    return ViT(8, 4, 10, Blocks(16, 3, 2, 2.0, **options), levels, coarse, in_channels=1)


def randomise(module: nn.Module, seed: int = 0, scale: float = 0.5) -> None:
    """Every parameter random and of a size that matters, biases, norms and tokens too."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            spread = scale if p.ndim < 2 or p.shape[0] == 1 else 1 / math.sqrt(p[0].numel())
            p.copy_(torch.randn(p.shape, generator=source) * spread + (1.0 if p.ndim < 2 else 0.0))


def make_images(count: int = 6, side: int = 8, channels: int = 1, seed: int = 1) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def make_batch(count: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.arange(count) % 10
    return make_images(count), y, (y // 2)[:, None]


def only_prompting(network: ViT) -> PromptingBlock:
    (block,) = (b for b in network.blocks if isinstance(b, PromptingBlock))
    return block


def mask_prompts(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    """Keys behind the first `tokens` get no attention at all."""
    real = F.scaled_dot_product_attention

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return real(q, k, v, attn_mask=torch.arange(k.shape[2]).expand(q.shape[2], -1) < tokens)

    monkeypatch.setattr(F, "scaled_dot_product_attention", masked)


def size(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.abs().max())
