"""The building blocks of Inception networks, v3 (arXiv 1512.00567) to v4 and ResNet (1602.07261), from lines as drawn.

A branch is a line of steps such as "1x1 64 - 3x3 96 - 3x3/2V 256": kernel, stride if it is not 1, V if nothing is
padded, filters. `avg` is 3x3 with stride 1, a mean without the padding; `max` is 3x3 with stride 2, V. A fork at the
end, "(1x3 256 | 3x1 256)", is concatenated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-3  # of every batch norm


class Unit(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, i: int, o: int, kernel: tuple[int, int], stride: int, padded: bool, momentum: float) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else 0
        self.out_channels = o
        self.conv = nn.Conv2d(i, o, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(o, EPSILON, momentum)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


@dataclass(frozen=True)
class Build:
    """What the lines of a network share: `width` multiplies every number of filters, `momentum` is batch norm's."""

    width: float = 1.0
    momentum: float = 0.1

    def wide(self, filters: int) -> int:
        return max(1, round(filters * self.width))

    def branch(self, channels: int, line: str) -> Branch:
        """The layers of a line, see above; in a fork every way begins at the same map.

        Raises ValueError for a step that is no kernel with filters, `avg`, `max` or a fork at the end.
        """
        steps = re.split(r" - (?![^(]*\))", line)
        layers: list[nn.Module] = []
        for number, step in enumerate(steps):
            unit = re.fullmatch(r"(\d)x(\d)(?:/(\d))?(V)? (\d+)", step)
            if step.startswith("(") and step.endswith(")") and number == len(steps) - 1:
                layers.append(Mixed(channels, step[1:-1].split(" | "), self))
            elif step == "avg":
                layers.append(nn.AvgPool2d(3, 1, 1, count_include_pad=False))
            elif step == "max":
                layers.append(nn.MaxPool2d(3, 2))
            elif unit is None:
                raise ValueError(f"{line!r}: {step!r} is no step; expected e.g. '1x7 224', '3x3/2V 96', 'avg', 'max'")
            else:
                height, width, stride, valid, filters = unit.groups()
                kernel = (int(height), int(width))
                layers.append(
                    Unit(channels, self.wide(int(filters)), kernel, int(stride or 1), not valid, self.momentum)
                )
            channels = getattr(layers[-1], "out_channels", channels)
        return Branch(channels, layers)


class Branch(nn.Sequential):
    def __init__(self, out_channels: int, layers: Sequence[nn.Module]) -> None:
        super().__init__(*layers)
        self.out_channels = out_channels


class Mixed(nn.Module):
    """Branches side by side, concatenated: the Inception block. (B, C, H, W) -> (B, sum, H', W').

    arXiv 1602.07261, figures 3 to 9, draws those of Inception-v4; stems and reductions are made of them too.

    Args:
        channels: C.
        lines: one for each branch.
        build: see Build.
    """

    def __init__(self, channels: int, lines: Sequence[str], build: Build) -> None:
        super().__init__()
        branches = [build.branch(channels, line) for line in lines]
        self.out_channels = sum(branch.out_channels for branch in branches)
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        if len(self.branches) == 1:
            return self.branches[0](x)
        return torch.cat([branch(x) for branch in self.branches], 1)


class Auxiliary(nn.Sequential):
    """slim's second classifier on the last but one grid: (B, C, side, side) -> logits (B, classes)."""

    def __init__(self, channels: int, side: int, classes: int, build: Build) -> None:
        pooled = (side - 5) // 3 + 1
        narrow = build.wide(128)
        wide = build.wide(768)
        super().__init__(
            nn.AvgPool2d(5, 3),
            Unit(channels, narrow, (1, 1), 1, True, build.momentum),  # (B, 128, pooled, pooled)
            Unit(narrow, wide, (pooled, pooled), 1, False, build.momentum),  # (B, 768, 1, 1)
            nn.Flatten(),
            nn.Linear(wide, classes),
        )
