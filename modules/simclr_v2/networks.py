"""SimCLR v2's networks (arXiv 2006.10029): ResNets of any width, with selective kernels or without, and the head."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
STEMS = ("imagenet", "cifar", "small")
EXPANSION = 4
TRUNCATED = 0.8796  # standard deviation of a normal distribution cut at 2


def variance_scaling(weight: Tensor) -> None:
    """Normal with variance 1 / fan-in, cut at two standard deviations, as TensorFlow draws it."""
    std = math.sqrt(1 / weight[0].numel()) / TRUNCATED
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Without bias; the border is padded by the kernel's half whatever the stride."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    variance_scaling(layer.weight)
    return layer


def conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    return [conv(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


class SelectiveKernel(nn.Module):
    """Two streams of 3x3 convolutions mixed channel by channel (Li et al. 2019, as released with SimCLR v2).

        s = GAP(u1 + u2),    a = softmax over the streams of W2 ReLU(BN(W1 s)),    out = a1 u1 + a2 u2

    Both streams are 3x3 and come out of one convolution; SKNet's own are 3x3 and 5x5.

    Args:
        inputs, channels: of the input, of the output.
        stride: of the convolution.
        ratio: width of s after W1 over `channels`, 32 at least.
    """

    def __init__(self, inputs: int, channels: int, stride: int = 1, ratio: float = 0.0625) -> None:
        super().__init__()
        narrow = max(int(channels * ratio), 32)
        self.streams = nn.Sequential(*conv_bn_relu(inputs, 2 * channels, 3, stride))
        self.squeeze = nn.Sequential(*conv_bn_relu(channels, narrow, 1))
        self.mix = conv(narrow, 2 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.streams(x).chunk(2, dim=1)  # (B, channels, H, W) each
        a1, a2 = self.attention(first + second)
        return a1 * first + a2 * second

    def attention(self, total: Tensor) -> tuple[Tensor, Tensor]:
        """The streams' weights (B, channels, 1, 1), which add up to 1, from the streams' sum."""
        pooled = total.mean((2, 3), keepdim=True)
        logits = torch.stack(self.mix(self.squeeze(pooled)).chunk(2, dim=1))  # (2, B, channels, 1, 1)
        a1, a2 = logits.softmax(0)
        return a1, a2


class AveragePool(nn.Module):
    """2x2 averages: those that reach over the border average what is inside."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            x = F.pad(x, (0, 1, 0, 1), mode="replicate")
        return F.avg_pool2d(x, 2, self.stride, ceil_mode=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 and a shortcut. The last norm's scale starts at 0: at first only the shortcut.

    Args:
        inputs: channels of the input.
        channels: of the 3x3 convolution; the output has four times as many.
        stride: of the 3x3 convolution.
        project: whether the shortcut has a convolution: the first block of a group.
        selective: selective kernels in place of the 3x3 convolution, and ResNet-D's shortcut.
    """

    def __init__(self, inputs: int, channels: int, stride: int, project: bool, selective: bool) -> None:
        super().__init__()
        outputs = EXPANSION * channels
        middle = (
            [SelectiveKernel(channels, channels, stride)] if selective else conv_bn_relu(channels, channels, 3, stride)
        )
        self.branch = nn.Sequential(
            *conv_bn_relu(inputs, channels, 1), *middle, conv(channels, outputs, 1), nn.BatchNorm2d(outputs)
        )
        nn.init.zeros_(self.branch[-1].weight)  # type: ignore[arg-type]

        self.shortcut: nn.Module = nn.Identity()
        if project and selective:
            self.shortcut = nn.Sequential(AveragePool(stride), conv(inputs, outputs, 1), nn.BatchNorm2d(outputs))
        elif project:
            self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


class ResNet(nn.Module):
    """A ResNet without classifier: images (B, C, S, S) -> h (B, 2048 width).

    Args:
        depth: 50, 101, 152 or 200, or the numbers of blocks of the four groups.
        width: factor on all channels; the groups have 64, 128, 256 and 512 times that, times four at their outputs.
        selective: selective kernels (SK) and ResNet-D's stem and shortcuts.
        in_channels: of the images.
        stem: "imagenet": a quarter of the side; "cifar": one 3x3 convolution; "small": the same with stride 2.
    Raises:
        ValueError: no such depth or stem.
    """

    def __init__(
        self,
        depth: int | Sequence[int] = 50,
        width: float = 1,
        selective: bool = False,
        in_channels: int = 3,
        stem: str = "imagenet",
    ) -> None:
        super().__init__()
        if isinstance(depth, int) and depth not in BLOCKS:
            raise ValueError(f"depth={depth}: expected one of {', '.join(map(str, BLOCKS))} or blocks of each group")
        if stem not in STEMS:
            raise ValueError(f"stem={stem!r}: expected one of {', '.join(STEMS)}")
        blocks = BLOCKS[depth] if isinstance(depth, int) else tuple(depth)
        channels = round(64 * width)
        self.stem = nn.Sequential(*_stem(stem, in_channels, channels, selective))

        groups: list[nn.Module] = []
        inputs = channels
        for number, count in enumerate(blocks):
            inner = round(64 * 2**number * width)
            for index in range(count):
                stride = 2 if number and not index else 1
                groups.append(Bottleneck(inputs, inner, stride, not index, selective))
                inputs = EXPANSION * inner
        self.groups = nn.Sequential(*groups)
        self.features = inputs
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return self.groups(self.stem(x)).mean((2, 3))


def _stem(kind: str, inputs: int, channels: int, selective: bool) -> list[nn.Module]:
    if kind != "imagenet":
        return conv_bn_relu(inputs, channels, 3, 2 if kind == "small" else 1)
    pool = nn.MaxPool2d(3, 2, ceil_mode=True)  # from the first pixel on, as TensorFlow pads
    if not selective:
        return [*conv_bn_relu(inputs, channels, 7, 2), pool]
    half = channels // 2
    return [
        *conv_bn_relu(inputs, half, 3, 2),
        *conv_bn_relu(half, half, 3),
        *conv_bn_relu(half, channels, 3),
        pool,
    ]


class Scale(nn.Module):
    """A factor for each channel: what is left of batch norm without its shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class ProjectionHead(nn.Module):
    """g: the layers that pretraining puts on h, as wide as h but for the last: (B, d) -> h and each layer's output.

    A middle layer is linear without bias, batch norm, ReLU; the last one ends with a batch norm that has a scale and no
    shift.

    Args:
        features: d.
        layers: how many; 3 in version 2 of SimCLR, 2 in version 1.
        outputs: of the last.
    Raises:
        ValueError: fewer than one layer.
    """

    def __init__(self, features: int, layers: int = 3, outputs: int = 128) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers={layers}: expected at least 1")
        middle = [
            nn.Sequential(_dense(features, features), nn.BatchNorm1d(features), nn.ReLU(inplace=True))
            for _ in range(layers - 1)
        ]
        last = nn.Sequential(_dense(features, outputs), nn.BatchNorm1d(outputs, affine=False), Scale(outputs))
        self.layers = nn.ModuleList([*middle, last])
        self.outputs = outputs

    def forward(self, h: Tensor) -> list[Tensor]:
        outputs = [h]
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        return outputs

    def first(self, count: int) -> nn.Sequential:
        """Layers 1 to `count`, the same ones. Raises ValueError where that is not below the last layer."""
        if not 0 <= count < len(self.layers):
            raise ValueError(f"layer={count}: expected 0 (h itself) to {len(self.layers) - 1}")
        return nn.Sequential(*self.layers[:count])


def _dense(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=0.01)
    return layer
