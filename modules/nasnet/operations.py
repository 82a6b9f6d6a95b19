"""What searched cells are made of: the 13 operations of Zoph et al. (arXiv 1707.07012, section 3) on hidden states.

Order within an operation: ReLU, convolution, batch norm (appendix A.4). Padding is TensorFlow's SAME throughout: at
stride 2 and an even side, bottom and right get the odd pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Callable[[int], nn.Module]  # channels -> a batch norm
OPERATIONS = (
    "identity",
    "conv1x3_3x1",
    "conv1x7_7x1",
    "dil3",
    "avg3",
    "max3",
    "max5",
    "max7",
    "conv1",
    "conv3",
    "sep3",
    "sep5",
    "sep7",
)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) such that the output has ceil(size / stride) pixels."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class State:
    """A hidden state, with its ReLU and poolings kept once computed: several operations share them."""

    def __init__(self, raw: Tensor) -> None:
        self.raw = raw
        self._relu: Tensor | None = None
        self._pooled: dict[tuple[str, int, int], Tensor] = {}

    @property
    def relu(self) -> Tensor:
        if self._relu is None:
            self._relu = F.relu(self.raw)
        return self._relu

    def pooled(self, kind: str, kernel: int, stride: int) -> Tensor:
        """Padding is never the maximum and not counted in an average."""
        key = (kind, kernel, stride)
        if key not in self._pooled:
            x = self.raw
            before = [same_padding(n, kernel, stride)[0] for n in x.shape[2:]]  # the rest is what ceil_mode adds
            if kind == "max":
                self._pooled[key] = F.max_pool2d(x, kernel, stride, before, ceil_mode=True)
            else:
                self._pooled[key] = F.avg_pool2d(x, kernel, stride, before, ceil_mode=True, count_include_pad=False)
        return self._pooled[key]


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as SAME. kernel and stride may be (vertical, horizontal)."""

    def __init__(
        self,
        i: int,
        o: int,
        kernel: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(i, o, kernel, stride, dilation=dilation, groups=groups, bias=False)
        self.reach = tuple(dilation * (k - 1) + 1 for k in self.kernel_size)
        if all(s == 1 for s in self.stride):
            self.padding = tuple(reach // 2 for reach in self.reach)

    def forward(self, x: Tensor) -> Tensor:
        if any(s > 1 for s in self.stride):
            vertical, horizontal = (
                same_padding(n, k, s) for n, k, s in zip(x.shape[2:], self.reach, self.stride, strict=True)
            )
            if vertical[0] == vertical[1] and horizontal[0] == horizontal[1]:
                padding = (vertical[0], horizontal[0])
                return F.conv2d(x, self.weight, None, self.stride, padding, self.dilation, self.groups)
            x = F.pad(x, (*horizontal, *vertical))
        return super().forward(x)


class ReluConvNorm(nn.Module):
    """ReLU, one convolution, batch norm."""

    def __init__(self, i: int, o: int, kernel: int, norm: Norm, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv = SameConv2d(i, o, kernel, stride, dilation)
        self.bn = norm(o)

    def forward(self, state: State) -> Tensor:
        return self.bn(self.conv(state.relu))


class Factored(nn.Module):
    """ReLU, 1xk, batch norm, ReLU, kx1, batch norm. Each takes its own direction's stride."""

    def __init__(self, i: int, o: int, kernel: int, norm: Norm, stride: int) -> None:
        super().__init__()
        self.conv1 = SameConv2d(i, o, (1, kernel), (1, stride))
        self.bn1 = norm(o)
        self.conv2 = SameConv2d(o, o, (kernel, 1), (stride, 1))
        self.bn2 = norm(o)

    def forward(self, state: State) -> Tensor:
        x = self.bn1(self.conv1(state.relu))
        return self.bn2(self.conv2(F.relu(x, inplace=True)))


class SeparableTwice(nn.Module):
    """Twice ReLU, depthwise, pointwise, batch norm; nothing between depthwise and pointwise; the stride comes first."""

    def __init__(self, i: int, o: int, kernel: int, norm: Norm, stride: int) -> None:
        super().__init__()
        self.depthwise1 = SameConv2d(i, i, kernel, stride, groups=i)
        self.pointwise1 = SameConv2d(i, o, 1)
        self.bn1 = norm(o)

        self.depthwise2 = SameConv2d(o, o, kernel, groups=o)
        self.pointwise2 = SameConv2d(o, o, 1)
        self.bn2 = norm(o)

    def forward(self, state: State) -> Tensor:
        x = self.bn1(self.pointwise1(self.depthwise1(state.relu)))
        return self.bn2(self.pointwise2(self.depthwise2(F.relu(x, inplace=True))))


class Pool(nn.Module):
    """Pooling, then 1x1 and batch norm if the channels differ."""

    def __init__(self, i: int, o: int, kind: str, kernel: int, norm: Norm, stride: int) -> None:
        super().__init__()
        self.options = (kind, kernel, stride)
        self.conv: nn.Module = nn.Identity() if i == o else SameConv2d(i, o, 1)
        self.bn: nn.Module = nn.Identity() if i == o else norm(o)

    def forward(self, state: State) -> Tensor:
        return self.bn(self.conv(state.pooled(*self.options)))


class Unchanged(nn.Module):
    def forward(self, state: State) -> Tensor:
        return state.raw


class ConvNorm(nn.Module):
    """1x1 and batch norm without a ReLU: for an input that leaves the cell unused and has other channels."""

    def __init__(self, i: int, o: int, norm: Norm) -> None:
        super().__init__()
        self.conv = SameConv2d(i, o, 1)
        self.bn = norm(o)

    def forward(self, state: State) -> Tensor:
        return self.bn(self.conv(state.raw))


class FactorizedReduction(nn.Module):
    """Halves the side: every second pixel, and every second one after a shift by a pixel, each through a 1x1 to o / 2.

    Of an odd o the second path has one channel more, as in the released code.

    Args:
        rectify: with a ReLU before (an input of a cell) or without (an unused input at its output).
    """

    def __init__(self, i: int, o: int, norm: Norm, rectify: bool = True) -> None:
        super().__init__()
        self.conv1 = SameConv2d(i, o // 2, 1)
        self.conv2 = SameConv2d(i, o - o // 2, 1)
        self.bn = norm(o)
        self.rectify = rectify

    def forward(self, state: State) -> Tensor:
        x = state.relu if self.rectify else state.raw  # (B, i, H, W)
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1::2, 1::2]
        return self.bn(torch.cat([self.conv1(x[:, :, ::2, ::2]), self.conv2(shifted)], 1))  # (B, o, H/2, W/2)


def operation(name: str, i: int, o: int, stride: int, norm: Norm) -> nn.Module:
    """(B, i, H, W) -> (B, o, H / stride, W / stride). Raises ValueError for an unknown name."""
    if name == "identity":
        return Unchanged() if i == o and stride == 1 else ReluConvNorm(i, o, 1, norm, stride)
    if name in ("avg3", "max3", "max5", "max7"):
        return Pool(i, o, name[:3], int(name[3:]), norm, stride)
    if name in ("conv1", "conv3"):
        return ReluConvNorm(i, o, int(name[4:]), norm, stride)
    if name == "dil3":
        return ReluConvNorm(i, o, 3, norm, stride, dilation=2)
    if name in ("conv1x3_3x1", "conv1x7_7x1"):
        return Factored(i, o, int(name[6]), norm, stride)
    if name in ("sep3", "sep5", "sep7"):
        return SeparableTwice(i, o, int(name[3:]), norm, stride)
    raise ValueError(f"operation {name!r}: expected one of {', '.join(OPERATIONS)}")
