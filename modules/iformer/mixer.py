"""The Inception token mixer and its branches (arXiv 2205.12956)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIGH = ("conv", "pool")  # the high mixers, in the order of their channels


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
        low = heads * head_dim  # C_l
        if wrong := [name for name in high if name not in HIGH]:
            raise ValueError(f"high={wrong[0]!r}: expected some of {', '.join(HIGH)}")
        if not 0 <= low <= channels:
            raise ValueError(f"heads={heads}: expected 0 to {channels // head_dim} of size {head_dim}, C = {channels}")
        if low < channels and (not high or (channels - low) % len(high)):
            raise ValueError(f"heads={heads}: {channels - low} channels cannot be shared by {len(high)} high mixers")
        self.cell = pool if heads else 1  # side of the cells on which attention is constant
        self.branches = nn.ModuleDict()
        self.widths: list[int] = []  # channels of each branch
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
        shares = zip(self.branches.values(), x.split(self.widths, -1), strict=True)
        y = channels_first(torch.cat([branch(share) for branch, share in shares], -1))  # (B, C_l + 2 C_h, H, W)
        if working_dtype(y).itemsize >= 4:  # Y_c + dw(Y_c) is one convolution with 1 added in the middle: a pass less
            y = F.conv2d(y, self.depthwise.weight + self.identity, padding=1, groups=y.shape[1])
        else:  # a weight of 0.02 would lose most of its digits beside the 1
            y = y + self.depthwise(y)
        return scaled_linear(channels_last(y), self.project, scale)
