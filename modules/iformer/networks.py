"""The Inception token mixer, the networks made of it, and the released weights for them (arXiv 2205.12956)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.iformer.spectra import outputs_of

HIGH = ("conv", "pool")  # the high mixers, in the order of their channels
Heads = Sequence[int | Sequence[int]]  # for each stage: of all its blocks, or of each


def channels_first(x: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), the same memory: what torch calls channels_last."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), the same memory where torch calls it channels_last."""
    return x.permute(0, 2, 3, 1)


def working_dtype(x: Tensor) -> torch.dtype:
    """What convolutions and matrix products of x compute in, autocast included."""
    kind = x.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if autocast else x.dtype


def scaled_linear(x: Tensor, linear: nn.Linear, scale: Tensor | None) -> Tensor:
    """LayerScale after a linear layer: scale * (W x + b). Scaling W and b instead spares two passes over the map."""
    if scale is None:
        return linear(x)
    if working_dtype(x) == torch.float16:  # W times 1e-6 is 0 there
        return linear(x) * scale
    return F.linear(x, linear.weight * scale[:, None], linear.bias * scale)


class ConvBranch(nn.Module):
    """High mixer: GELU(dw3x3(1x1(x))), twice as many channels out as in. (B, H, W, c) -> (B, H, W, 2c)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, 2 * channels, bias=False)
        self.depthwise = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1, groups=2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(channels_last(self.depthwise(channels_first(self.expand(x)))))


class PoolBranch(nn.Module):
    """High mixer: GELU(1x1(maxpool3x3(x))), twice as many channels out as in. (B, H, W, c) -> (B, H, W, 2c)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.expand = nn.Linear(channels, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.expand(channels_last(F.max_pool2d(channels_first(x), 3, stride=1, padding=1))))


class AttentionBranch(nn.Module):
    """Low mixer: attention among the averages of pool x pool cells, without an output projection.

    (B, H, W, C_l) -> the same.

    Args:
        heads, head_dim: a and d; C_l = a d.
        pool: side of the cells; 1 attends among all tokens.
    """

    def __init__(self, heads: int, head_dim: int, pool: int) -> None:
        super().__init__()
        self.heads, self.head_dim, self.pool = heads, head_dim, pool
        self.qkv = nn.Linear(heads * head_dim, 3 * heads * head_dim)

    def forward(self, x: Tensor) -> Tensor:
        b, height, width, c = x.shape
        if self.pool > 1:
            x = channels_last(F.avg_pool2d(channels_first(x), self.pool, ceil_mode=True))
        h, w = x.shape[1:3]
        q, k, v = self.qkv(x).view(b, h * w, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)  # (B, a, N, d) each
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h, w, c)
        if self.pool > 1:
            y = channels_last(F.interpolate(channels_first(y), scale_factor=self.pool))  # nearest; dw repairs the steps
            y = y[:, :height, :width]
        return y


class InceptionMixer(nn.Module):
    """ITM. (B, H, W, C) -> the same.

    Args:
        channels: C.
        heads: a; 0 is high mixers alone, C / head_dim attention alone (with the same fusion).
        head_dim: d.
        pool: side of the cells that attention averages over.
        high: which of HIGH share the C_h channels.
    Raises:
        ValueError: heads or high do not fit the channels, or high has an unknown name.
    """

    identity: Tensor

    def __init__(
        self, channels: int, heads: int, head_dim: int = 32, pool: int = 1, high: Sequence[str] = HIGH
    ) -> None:
        super().__init__()
        low = heads * head_dim
        if wrong := [name for name in high if name not in HIGH]:
            raise ValueError(f"high={wrong[0]!r}: expected some of {', '.join(HIGH)}")
        if not 0 <= low <= channels:
            raise ValueError(f"heads={heads}: expected 0 to {channels // head_dim} of size {head_dim}, C = {channels}")
        if low < channels and (not high or (channels - low) % len(high)):
            raise ValueError(f"heads={heads}: {channels - low} channels cannot be shared by {len(high)} high mixers")
        self.branches, self.widths = nn.ModuleDict(), []
        for name in high if low < channels else ():
            self.widths.append((channels - low) // len(high))
            self.branches[name] = (ConvBranch if name == "conv" else PoolBranch)(self.widths[-1])
        if heads:
            self.widths.append(low)
            self.branches["attention"] = AttentionBranch(heads, head_dim, pool)
        fused = low + 2 * (channels - low)
        self.depthwise = nn.Conv2d(fused, fused, 3, padding=1, groups=fused, bias=False)
        self.project = nn.Linear(fused, channels)
        self.register_buffer("identity", F.pad(torch.ones(1, 1, 1, 1), (1, 1, 1, 1)), persistent=False)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        parts = zip(self.branches.values(), x.split(self.widths, -1), strict=True)
        y = channels_first(torch.cat([branch(part) for branch, part in parts], -1))  # (B, C_l + 2 C_h, H, W)
        if working_dtype(y).itemsize >= 4:  # Y_c + dw(Y_c) is one convolution with 1 added in the middle: a pass less
            y = F.conv2d(y, self.depthwise.weight + self.identity, padding=1, groups=y.shape[1])
        else:  # a weight of 0.02 would lose most of its digits beside the 1
            y = y + self.depthwise(y)
        return scaled_linear(channels_last(y), self.project, scale)


class FeedForward(nn.Module):
    """FFN, (B, H, W, C) -> the same."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand, self.project = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

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
        hidden = int(channels * mlp_ratio)
        self.norm1, self.mixer = nn.LayerNorm(channels, eps=1e-6), mixer
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.ffn = FeedForward(channels, hidden)
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


class IFormer(nn.Module):
    """The backbone with its classifier, (B, in_channels, H, W) -> logits (B, classes).

    Args:
        depths: blocks of each stage.
        dims: C of each stage.
        heads: a of each stage, or of each of its blocks; the ramp is that they grow faster than dims.
        pools: side of the cells that attention averages over, for each stage.
        layer_scale: see Block, for each stage.
        classes, in_channels: of the data.
        input_size: side of the square input that the position embeddings are made for; others are interpolated.
        patch: stride of the first embedding, 2 or 4: a convolution of stride 2 for every factor of 2.
        head_dim, mlp_ratio, high: see InceptionMixer and Block.
        drop_path: of the last block; grows linearly from 0 over all blocks.
        initial_std: of the truncated normal that matrices and filters start from; None is 1 / sqrt(fan-in) of each.
    Raises:
        ValueError: a list has not one entry for each stage (heads: each block), patch is no power of 2, or see
            InceptionMixer.
    """

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        heads: Heads,
        pools: Sequence[int],
        layer_scale: Sequence[float | None],
        classes: int,
        in_channels: int = 3,
        input_size: int = 224,
        patch: int = 4,
        head_dim: int = 32,
        mlp_ratio: float = 4.0,
        high: Sequence[str] = HIGH,
        drop_path: float = 0.0,
        initial_std: float | None = 0.02,
    ) -> None:
        super().__init__()
        per_stage = {"dims": dims, "heads": heads, "pools": pools, "layer_scale": layer_scale}
        for name, values in per_stage.items():
            if len(values) != len(depths):
                raise ValueError(f"{name} has {len(values)} entries for {len(depths)} stages")
        stem = patch.bit_length() - 1
        if patch < 2 or 2**stem != patch:
            raise ValueError(f"patch={patch}: expected 2, 4 or a higher power of 2")
        total = sum(depths)
        rates = iter([drop_path * number / max(1, total - 1) for number in range(total)])
        side, before, stages = input_size, in_channels, []
        for number, (depth, c, a) in enumerate(zip(depths, dims, heads, strict=True)):
            each = [a] * depth if isinstance(a, int) else list(a)
            if len(each) != depth:
                raise ValueError(f"heads of stage {number + 1} has {len(each)} entries for {depth} blocks")
            mixers = [InceptionMixer(c, n, head_dim, pools[number], high) for n in each]
            blocks = [Block(mixer, c, mlp_ratio, next(rates), layer_scale[number]) for mixer in mixers]
            widths = [before, c] if number else [before, *(c >> (stem - 1 - i) for i in range(stem))]
            for _ in widths[1:]:
                side = (side + 1) // 2
            stages.append(Stage(halving(widths), c, side, blocks))
            before = c
        self.stages = nn.Sequential(*stages)
        self.norm = nn.LayerNorm(before, eps=1e-6)
        self.head = nn.Linear(before, classes)
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


def iformer_s(classes: int = 1000, heads: Heads = RAMP_S, **options: Any) -> IFormer:
    """iFormer-S: 19.9 M parameters, 4.8 G mult-adds at 224. `options`: of IFormer."""
    return IFormer((3, 3, 9, 3), (96, 192, 320, 384), heads, **PUBLISHED, classes=classes, **options)


def iformer_b(classes: int = 1000, heads: Heads = RAMP_B, **options: Any) -> IFormer:
    """iFormer-B: 47.9 M parameters, 9.4 G mult-adds at 224. `options`: of IFormer."""
    return IFormer((4, 6, 14, 6), (96, 192, 384, 512), heads, **PUBLISHED, classes=classes, **options)


def iformer_l(classes: int = 1000, heads: Heads = RAMP_L, **options: Any) -> IFormer:
    """iFormer-L: 86.6 M parameters, 14.0 G mult-adds at 224. `options`: of IFormer."""
    return IFormer((4, 6, 18, 8), (96, 192, 448, 640), heads, **PUBLISHED, classes=classes, **options)


RELEASED = (  # names of the released weights -> ours
    (r"^patch_embed\.proj1\.", "stages.0.embed.0."),
    (r"^patch_embed\.norm1\.", "stages.0.embed.1."),
    (r"^patch_embed\.proj2\.", "stages.0.embed.3."),
    (r"^patch_embed\.norm2\.", "stages.0.embed.4."),
    (r"^patch_embed([234])\.proj\.", r"stages.{\1}.embed.0."),
    (r"^patch_embed([234])\.norm\.", r"stages.{\1}.embed.1."),
    (r"^pos_embed([1234])$", r"stages.{\1}.position"),
    (r"^blocks([1234])\.", r"stages.{\1}.blocks."),
    (r"\.attn\.high_mixer\.conv1\.", ".mixer.branches.conv.expand."),
    (r"\.attn\.high_mixer\.proj1\.", ".mixer.branches.conv.depthwise."),
    (r"\.attn\.high_mixer\.proj2\.", ".mixer.branches.pool.expand."),
    (r"\.attn\.low_mixer\.", ".mixer.branches.attention."),
    (r"\.attn\.conv_fuse\.", ".mixer.depthwise."),
    (r"\.attn\.proj\.", ".mixer.project."),
    (r"\.mlp\.fc1\.", ".ffn.expand."),
    (r"\.mlp\.fc2\.", ".ffn.project."),
    (r"\.layer_scale_([12])$", r".scale\1"),
)


def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The released weights' state dict under our names and shapes: for `load_state_dict`, or `load_resized`."""
    found = {}
    for name, value in state.items():
        ours = name
        for pattern, replacement in RELEASED:
            ours = re.sub(pattern, replacement, ours)
        ours = re.sub(r"\{(\d)\}", lambda match: str(int(match[1]) - 1), ours)
        if ours.endswith("position"):
            value = channels_first(value)
        elif value.ndim == 4 and value.shape[2:] == (1, 1):
            value = value.flatten(1)  # their 1x1 convolutions are our linear layers
        found[ours] = value
    return found


def branch_outputs(network: IFormer) -> AbstractContextManager[dict[tuple[int, int, str], Tensor]]:
    """Collects what every branch of every mixer gives, by (stage, block, branch), in forward passes inside."""
    return outputs_of({(s, b, name): branch for s, b, m in network.mixers() for name, branch in m.branches.items()})
