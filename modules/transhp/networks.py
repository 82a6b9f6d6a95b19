"""A vision transformer with prompting blocks (TransHP, arXiv 2304.06385), and timm's weights for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

COARSE = ("prompts", "class_token", "none")


def coarse_scores(p_hat: Tensor, w: Tensor) -> Tensor:
    """S_i = P_hat_i . w_i, each prompt with its own prototype alone: (B, M, C), (M, C) -> (B, M)."""
    return (p_hat * w).sum(-1)


class Absorbed(NamedTuple):
    """Share of attention that each prompt of a block gets, (B, M), mean over the heads.

    How the paper averages over tokens is not stated.
    """

    tokens: Tensor  # mean over the N+1 tokens
    class_token: Tensor


class Attention(nn.Module):
    """Multi-head self-attention: (B, T, C) -> (B, Q, C), the outputs of the first Q tokens; all T are keys.

    Args:
        dim: C.
        heads: a divisor of C.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim={dim} is no multiple of heads={heads}")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, H, T, C/H)."""
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        q, k, v = self.split(x)
        x = F.scaled_dot_product_attention(q[:, :, :queries], k, v)  # (B, H, Q, C/H)
        return self.proj(x.transpose(1, 2).flatten(2))  # (B, Q, C)

    def shares(self, x: Tensor, queries: int) -> Tensor:
        """(B, Q, T): softmax over the keys, mean over the heads."""
        q, k, _ = self.split(x)
        logits = q[:, :, :queries] @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        return logits.float().softmax(-1).mean(1)


class Block(nn.Module):
    """A transformer block, normalised before each part (ViT, DeiT).

    Args:
        dim, heads: C and H.
        mlp_ratio: hidden units of the MLP over C.
        drop_path: probability of leaving out a part for a whole image, in training.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.drop_path = StochasticDepth(drop_path, "row") if drop_path else nn.Identity()

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        """(B, T, C) -> (B, Q, C), the first Q tokens; all by default."""
        x = x[:, :queries] + self.drop_path(self.attn(self.norm1(x), queries))
        return x + self.drop_path(self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class PromptingBlock(Block):
    """B_l: an ordinary block that sees M prompts behind the tokens, and scores their outputs.

    Args:
        prompts: M.
        others: see Block.
    """

    def __init__(self, prompts: int, dim: int, heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__(dim, heads, mlp_ratio, drop_path)
        self.prompts = nn.Parameter(torch.empty(prompts, dim))  # P
        self.prototypes = nn.Parameter(torch.empty(prompts, dim))  # W

    def append_prompts(self, x: Tensor) -> Tensor:
        """(B, N+1, C) -> (B, N+1+M, C); the prompts have no position embedding."""
        return torch.cat([x, self.prompts.to(x.dtype).expand(len(x), -1, -1)], 1)

    def score(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N+1, C) -> the tokens after the block, without the prompts, and S (B, M)."""
        n = x.shape[1]
        y = super().forward(self.append_prompts(x))  # (B, N+1+M, C)
        return y[:, :n], coarse_scores(y[:, n:], self.prototypes)

    def forward(self, x: Tensor, queries: int | None = None) -> Tensor:
        """(B, N+1, C) -> (B, Q, C), Q = N+1 by default, without scores: no prompt asks, all are asked."""
        return super().forward(self.append_prompts(x), queries or x.shape[1])

    def absorption(self, x: Tensor) -> Absorbed:
        n = x.shape[1]
        shares = self.attn.shares(self.norm1(self.append_prompts(x)), n)[:, :, n:]  # (B, N+1, M)
        return Absorbed(shares.mean(1), shares[:, 0])

    def forward_masked(self, x: Tensor, queries: int | None = None) -> Tensor:
        """As an ordinary block: no prompt is asked."""
        return super().forward(x, queries)


@dataclass(frozen=True)
class Blocks:
    """The blocks of a vision transformer, and how they start.

    Attributes:
        dim, depth, heads, mlp_ratio: C, blocks, H, hidden units of an MLP over C.
        drop_path: of the last block; it grows linearly from 0 in the first.
        initial_std: of all matrices at the start. Attention's logits then have a standard deviation of about C
            initial_std^2: 0.15 with the published 0.02 and C = 384, which 0.057 gives with C = 48.
    """

    dim: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    initial_std: float = 0.02


class ViT(nn.Module):
    """A vision transformer, plain or with prompting blocks. (B, in_channels, S, S) -> fine logits (B, classes).

    Args:
        image_size: S.
        patch: side of a patch.
        classes: fine classes.
        blocks: their number and size.
        levels: (block counted from 0, M) for each level of the hierarchy, coarsest first.
        coarse: where the levels' scores come from: "prompts" (TransHP), "class_token" (a linear classifier on the class
            token after the same block: "no prompts") or "none" (a plain ViT; `levels` is not looked at).
        in_channels: of the images.
    Raises:
        ValueError: a value that is not listed, a block that is not there, or sizes that do not divide.
    """

    def __init__(
        self,
        image_size: int,
        patch: int,
        classes: int,
        blocks: Blocks,
        levels: Sequence[Sequence[int]] = (),
        coarse: str = "none",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if coarse not in COARSE:
            raise ValueError(f"coarse={coarse!r}: expected one of {', '.join(COARSE)}")
        if image_size % patch:
            raise ValueError(f"image_size={image_size} is no multiple of patch={patch}")
        dim, depth = blocks.dim, blocks.depth
        self.levels = [(block, m) for block, m in levels] if coarse != "none" else []
        places = [block for block, _ in self.levels]
        if places != sorted(set(places)) or any(not 0 <= place < depth for place in places):
            raise ValueError(f"levels: blocks {places}; expected different ones from 0 to {depth - 1}, in this order")
        self.coarse = coarse
        self.patch = patch
        self.initial_std = blocks.initial_std

        self.patch_embed = nn.Conv2d(in_channels, dim, patch, patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + (image_size // patch) ** 2, dim))
        prompts = dict(self.levels) if coarse == "prompts" else {}
        layers: list[Block] = []
        for number in range(depth):
            sizes = (dim, blocks.heads, blocks.mlp_ratio, blocks.drop_path * number / max(1, depth - 1))
            layers.append(PromptingBlock(prompts[number], *sizes) if number in prompts else Block(*sizes))
        self.blocks = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, classes)

        # Weights for coarse classes are drawn last: networks that differ in them alone then start alike.
        shared = {name: p for name, p in self.named_parameters() if not name.endswith(("prompts", "prototypes"))}
        self.initialise(shared)

        heads_at = self.levels if coarse == "class_token" else []
        self.coarse_heads = nn.ModuleDict(
            {str(block): nn.Sequential(nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, m)) for block, m in heads_at}
        )
        self.initialise({name: p for name, p in self.named_parameters() if name not in shared})

    def initialise(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Normal(0, initial_std), cut at 2, for all matrices, prompts and prototypes among them; zero biases (DeiT).

        The patch embedding has torch's own range.
        """
        bound = 1 / math.sqrt(self.patch_embed.weight[0].numel())
        for name, parameter in parameters.items():
            if name.startswith("patch_embed"):
                nn.init.uniform_(parameter, -bound, bound)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=self.initial_std)

    def embed(self, x: Tensor) -> Tensor:
        """Images (B, in_channels, S, S) -> [x_cls, X] with positions, (B, N+1, C)."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)  # (B, N, C)
        return torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.classify(self.blocks[-1](x, 1))

    def forward_masked(self, x: Tensor) -> Tensor:
        """Fine logits (B, classes) with all prompts masked as keys: what the trained network knows without them."""
        x = self.embed(x)
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            ordinary = block.forward_masked if isinstance(block, PromptingBlock) else block
            x = ordinary(x, 1 if number == last else None)
        return self.classify(x)

    def classify(self, x: Tensor) -> Tensor:
        """Fine logits from the class token of the last block; the other tokens need not be there."""
        return self.head(self.norm(x[:, 0]))

    def score(self, x: Tensor, absorbed: list[Absorbed] | None = None) -> tuple[Tensor, list[Tensor]]:
        """Fine logits (B, classes) and the scores (B, M) of each level.

        Args:
            absorbed: gets the absorption weights of each prompting block appended.
        """
        x = self.embed(x)
        scores: list[Tensor] = []
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            if isinstance(block, PromptingBlock):
                if absorbed is not None:
                    absorbed.append(block.absorption(x))
                x, s = block.score(x)
                scores.append(s)
            else:
                x = block(x, 1 if number == last else None)
                if str(number) in self.coarse_heads:
                    scores.append(self.coarse_heads[str(number)](x[:, 0]))
        return self.classify(x), scores


def from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters of timm's vit_* and deit_*, or of the released TransHP, by the names they have here.

    The released code calls the prompts of block l `prototype_<l>.weight` and the prototypes `matrix_<l>.weight`.
    """
    renamed = {}
    for name, value in state.items():
        kind, _, rest = name.partition("_")
        if kind in ("prototype", "matrix"):
            name = f"blocks.{rest.removesuffix('.weight')}.{'prompts' if kind == 'prototype' else 'prototypes'}"
        renamed[name.replace(".mlp.", ".").replace("patch_embed.proj.", "patch_embed.")] = value
    return renamed
