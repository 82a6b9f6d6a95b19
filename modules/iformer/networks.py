"""The networks made of Inception token mixers (arXiv 2205.12956)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.iformer.mixer import HIGH, InceptionMixer, channels_first, channels_last, scaled_linear

Heads = Sequence[int | Sequence[int]]  # for each stage: of all its blocks, or of each


class FeedForward(nn.Module):
    """FFN, (B, H, W, C) -> the same."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, hidden)
        self.project = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return scaled_linear(F.gelu(self.expand(x)), self.project, scale)


class Block(nn.Module):
    """Pre-norm residual block, (B, H, W, C) -> the same.

    Args:
        mixer: ITM of C channels.
        channels: C.
        mlp_ratio: hidden units of the FFN over C.
        drop_path: probability that an image skips a residual branch in training.
        layer_scale: what the branches' learned scales start at; None has none.
    """

    def __init__(
        self, mixer: InceptionMixer, channels: int, mlp_ratio: float, drop_path: float, layer_scale: float | None
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.ffn = FeedForward(channels, int(channels * mlp_ratio))
        self.drop_path = nn.Dropout(drop_path)  # of one number per image: stochastic depth, in step over processes
        for name in ("scale1", "scale2"):
            start = None if layer_scale is None else nn.Parameter(torch.full((channels,), layer_scale))
            self.register_parameter(name, start)

    def _residual(self, x: Tensor, y: Tensor) -> Tensor:
        if self.training and self.drop_path.p:
            y = y * self.drop_path(y.new_ones(len(y), 1, 1, 1))
        # in y's memory: what made y does not need it again. With autocast the sum keeps x's precision
        return y.add_(x) if y.dtype == x.dtype else x + y

    def forward(self, x: Tensor) -> Tensor:
        x = self._residual(x, self.mixer(self.norm1(x), self.scale1))
        return self._residual(x, self.ffn(self.norm2(x), self.scale2))


class Stage(nn.Module):
    """Patch embedding, learned positions, blocks. (B, C_in, H, W) -> (B, C, H / s, W / s) in channels_last memory."""

    def __init__(self, embed: nn.Sequential, channels: int, side: int, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.embed = embed
        self.position = nn.Parameter(torch.zeros(1, channels, side, side))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        position: Tensor = self.position
        if x.shape[2:] != position.shape[2:]:
            position = resized(position, x.shape[2], x.shape[3])
        return channels_first(self.blocks(channels_last(x + position).contiguous()))


def resized(position: Tensor, height: int, width: int) -> Tensor:
    """Position embeddings (1, C, S, S) for maps of another size, bilinear."""
    return F.interpolate(position, (height, width), mode="bilinear")


def halving(widths: Sequence[int]) -> nn.Sequential:
    """3x3 convolutions of stride 2 with batch norm, GELU between them: widths[0] channels in, the others out."""
    layers: list[nn.Module] = []
    for i, o in pairwise(widths):
        layers += [nn.Conv2d(i, o, 3, 2, 1), nn.BatchNorm2d(o), nn.GELU()]
    return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class Layout:
    """Stages and what their blocks are made of.

    Args:
        depths: blocks of each stage.
        dims: C of each stage.
        heads: a of each stage, or of each of its blocks; the ramp is that they grow faster than dims.
        pools: side of the cells that attention averages over, for each stage.
        layer_scale: see Block, for each stage.
        head_dim, mlp_ratio, high: see InceptionMixer and Block.
    Raises:
        ValueError: a list has not one entry for each stage (heads: each block).
    """

    depths: Sequence[int]
    dims: Sequence[int]
    heads: Heads
    pools: Sequence[int]
    layer_scale: Sequence[float | None]
    head_dim: int = 32
    mlp_ratio: float = 4.0
    high: Sequence[str] = HIGH

    def __post_init__(self) -> None:
        for name in ("dims", "heads", "pools", "layer_scale"):
            if len(getattr(self, name)) != len(self.depths):
                raise ValueError(f"{name} has {len(getattr(self, name))} entries for {len(self.depths)} stages")
        for stage, depth in enumerate(self.depths):
            if len(self.heads_of(stage)) != depth:
                raise ValueError(
                    f"heads of stage {stage + 1} has {len(self.heads_of(stage))} entries for {depth} blocks"
                )

    def heads_of(self, stage: int) -> list[int]:
        """a of each block of a stage; stages count from 0."""
        heads = self.heads[stage]
        return [heads] * self.depths[stage] if isinstance(heads, int) else list(heads)

    def blocks_of(self, stage: int, drop_path: Sequence[float]) -> list[Block]:
        """The blocks of a stage, for each of which there is a drop_path."""
        channels = self.dims[stage]
        mixers = [
            InceptionMixer(channels, heads, self.head_dim, self.pools[stage], self.high)
            for heads in self.heads_of(stage)
        ]
        return [
            Block(mixer, channels, self.mlp_ratio, rate, self.layer_scale[stage])
            for mixer, rate in zip(mixers, drop_path, strict=True)
        ]


class IFormer(nn.Module):
    """The backbone with its classifier, (B, in_channels, H, W) -> logits (B, classes).

    Args:
        layout: stages and blocks.
        classes, in_channels: of the data.
        input_size: side of the square input that the position embeddings are made for; others are interpolated.
        patch: stride of the first embedding, 2 or 4: a convolution of stride 2 for every factor of 2.
        drop_path: of the last block; grows linearly from 0 over all blocks.
        initial_std: of the truncated normal that matrices and filters start from; None is 1 / sqrt(fan-in) of each.
    Raises:
        ValueError: patch is no power of 2.
    """

    def __init__(
        self,
        layout: Layout,
        classes: int,
        in_channels: int = 3,
        input_size: int = 224,
        patch: int = 4,
        drop_path: float = 0.0,
        initial_std: float | None = 0.02,
    ) -> None:
        super().__init__()
        halvings = patch.bit_length() - 1  # of the first embedding; the others halve once
        if patch < 2 or 2**halvings != patch:
            raise ValueError(f"patch={patch}: expected 2, 4 or a higher power of 2")

        total = sum(layout.depths)
        rates = iter([drop_path * number / max(1, total - 1) for number in range(total)])
        channels = in_channels
        side = input_size
        stages = []
        for number, (depth, dim) in enumerate(zip(layout.depths, layout.dims, strict=True)):
            blocks = layout.blocks_of(number, [next(rates) for _ in range(depth)])
            times = 1 if number else halvings
            widths = [channels, *(dim >> (times - 1 - i) for i in range(times))]
            for _ in range(times):
                side = (side + 1) // 2
            stages.append(Stage(halving(widths), dim, side, blocks))
            channels = dim

        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.head = nn.Linear(channels, classes)
        self.apply(partial(_initialise, std=initial_std))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(x.contiguous(memory_format=torch.channels_last))  # (B, C, H / 32, W / 32)
        return self.head(self.norm(channels_last(x)).mean((1, 2)))

    def load_resized(self, state: Mapping[str, Tensor]) -> None:
        """Load weights of the same network at another input size; position embeddings are interpolated."""
        own = self.state_dict()
        moved = {
            name: resized(value, *own[name].shape[2:]) if name.endswith("position") else value
            for name, value in state.items()
        }
        self.load_state_dict(moved)

    def mixers(self) -> Iterator[tuple[int, int, InceptionMixer]]:
        """(stage, block, mixer) from the input on; stages and blocks count from 1."""
        for s, stage in enumerate(self.stages, 1):
            for b, block in enumerate(stage.blocks, 1):  # type: ignore[arg-type, union-attr]
                yield s, b, block.mixer


def _initialise(module: nn.Module, std: float | None) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5 if std is None else std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, Stage):
        nn.init.trunc_normal_(module.position, std=0.02)


PUBLISHED: dict[str, Any] = {"pools": (2, 2, 1, 1), "layer_scale": (None, None, 1e-6, 1e-6)}
RAMP_S: Heads = (1, 3, (7,) * 4 + (9,) * 5, 11)
RAMP_B: Heads = (1, 3, (8,) * 7 + (10,) * 7, 15)
RAMP_L: Heads = (1, 3, (10,) * 9 + (12,) * 9, 19)


def iformer_s(classes: int = 1000, heads: Heads = RAMP_S, high: Sequence[str] = HIGH, **options: Any) -> IFormer:
    """iFormer-S: 19.9 M parameters, 4.8 G mult-adds at 224. `options`: of IFormer."""
    return IFormer(Layout((3, 3, 9, 3), (96, 192, 320, 384), heads, high=high, **PUBLISHED), classes, **options)


def iformer_b(classes: int = 1000, heads: Heads = RAMP_B, high: Sequence[str] = HIGH, **options: Any) -> IFormer:
    """iFormer-B: 47.9 M parameters, 9.4 G mult-adds at 224. `options`: of IFormer."""
    return IFormer(Layout((4, 6, 14, 6), (96, 192, 384, 512), heads, high=high, **PUBLISHED), classes, **options)


def iformer_l(classes: int = 1000, heads: Heads = RAMP_L, high: Sequence[str] = HIGH, **options: Any) -> IFormer:
    """iFormer-L: 86.6 M parameters, 14.0 G mult-adds at 224. `options`: of IFormer."""
    return IFormer(Layout((4, 6, 18, 8), (96, 192, 448, 640), heads, high=high, **PUBLISHED), classes, **options)
