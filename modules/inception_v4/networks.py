"""Networks of Inception blocks: stem, grids of blocks, pooling, one linear layer (arXiv 1602.07261, section 3).

Inception-ResNet blocks add their branches to their own input (section 3.2, figures 10 to 19):

    out = ReLU(x + s Expand1x1(concat(branches(x)))),    s = 0.1 to 0.3 keeps wide networks from dying (section 3.3)

Every convolution is Conv (no bias), batch norm (epsilon 1e-3), ReLU. The 1x1 expansion has a bias and neither, and
nothing is normalised after the addition.

What is here and not in the paper or the released code, and why:
- slim's auxiliary classifier is an option, off by default: the paper does not mention it.
- Batch norms have a gain, as the paper's sizes and timm's have; slim's have none, because the convolution after the
  ReLU can take it over.
- The plain block, an expansion with batch norm and ReLU and no shortcut, is this suite's baseline: it changes nothing
  but the shortcut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.inception_v4.blocks import Auxiliary, Build, Mixed, Unit

JOINS = ("concat", "residual", "plain")


class Residual(Mixed):
    """out = ReLU(x + s Expand1x1(concat(branches(x)))), the Inception-ResNet block of figures 10 to 19.

    Args:
        channels, lines, build: see Mixed.
        scale: s.
        relu: false leaves the sum as it is (the last block of the released network).
    """

    def __init__(self, channels: int, lines: Sequence[str], build: Build, scale: float, relu: bool = True) -> None:
        super().__init__(channels, lines, build)
        self.scale = scale
        self.relu = relu
        self.expand = nn.Conv2d(self.out_channels, channels, 1)
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        total = torch.add(x, self.expand(super().forward(x)), alpha=self.scale)
        return F.relu_(total) if self.relu else total


class Plain(Mixed):
    """The same block without its shortcut; the expansion is then a convolution like the others."""

    def __init__(self, channels: int, lines: Sequence[str], build: Build) -> None:
        super().__init__(channels, lines, build)
        self.expand = Unit(self.out_channels, channels, (1, 1), 1, True, build.momentum)
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(super().forward(x))


@dataclass(frozen=True)
class Grid:
    """Blocks on maps of one size, e.g. 17x17.

    Attributes:
        branches: of each block.
        repeats: how many equal blocks.
        reduction: branches of the block before them, which makes the maps smaller; empty for none.
        scale: s of residual blocks.
        linear_last: the last residual block has s = 1 and no ReLU (the released network).
    """

    branches: Sequence[str]
    repeats: int
    reduction: Sequence[str] = ()
    scale: float = 1.0
    linear_last: bool = False


class Inception(nn.Module):
    """Stem, grids of blocks, global average, dropout, one linear layer. (B, in_channels, H, W) -> logits (B, classes).

    Args:
        stem: rows of branches.
        grids: the blocks, from large to small maps.
        classes, in_channels: outputs and inputs.
        join: how a block joins its branches: "concat" (Inception), "residual" (Inception-ResNet) or "plain".
        end: a line between the last block and the pooling; empty for none.
        dropout: the share that is dropped; the paper keeps 0.8.
        auxiliary_side: side of the last but one grid's map, for slim's auxiliary classifier (17 at 299x299); None
            leaves it out.
        width: multiplies every number of filters.
        momentum: of the batch statistics; slim's decay 0.9997 is 3e-4.
    Raises:
        ValueError: no such join, or a line that cannot be read.
    """

    def __init__(
        self,
        stem: Sequence[Sequence[str]],
        grids: Sequence[Grid],
        classes: int,
        in_channels: int = 3,
        join: str = "concat",
        end: str = "",
        dropout: float = 0.2,
        auxiliary_side: int | None = None,
        width: float = 1.0,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        if join not in JOINS:
            raise ValueError(f"join={join!r}: expected one of {', '.join(JOINS)}")
        self.join = join
        self.build = Build(width, momentum)
        self.features = nn.ModuleList()
        self.ends: list[int] = []  # layers until the end of the stem and of each grid

        channels = in_channels
        for row in stem:
            channels = self._append(Mixed(channels, row, self.build))
        self.ends.append(len(self.features))

        grid_channels = [channels]  # of the stem's map and of each grid's
        for grid in grids:
            grid_channels.append(self._append_grid(grid, grid_channels[-1]))
            self.ends.append(len(self.features))
        channels = grid_channels[-1]
        if end:
            channels = self._append(Mixed(channels, [end], self.build))

        self.out_channels = channels
        self.dropout = dropout
        self.classifier = nn.Linear(channels, classes)
        self.auxiliary = (
            None if auxiliary_side is None else Auxiliary(grid_channels[-2], auxiliary_side, classes, self.build)
        )
        self.apply(initialise)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _append(self, layer: Mixed) -> int:
        """Returns the channels of the layer's map."""
        self.features.append(layer)
        return layer.out_channels

    def _append_grid(self, grid: Grid, channels: int) -> int:
        """A grid's reduction and its blocks. Returns the channels of its map."""
        if grid.reduction:
            channels = self._append(Mixed(channels, grid.reduction, self.build))
        for number in range(grid.repeats):
            channels = self._append(self._block(grid, channels, last=number == grid.repeats - 1))
        return channels

    def _block(self, grid: Grid, channels: int, last: bool) -> Mixed:
        if self.join == "residual":
            linear = last and grid.linear_last
            return Residual(channels, grid.branches, self.build, 1.0 if linear else grid.scale, not linear)
        return (Plain if self.join == "plain" else Mixed)(channels, grid.branches, self.build)

    def layers(self, x: Tensor) -> Iterator[Tensor]:
        """The map after each layer in turn: rows of the stem, reductions, blocks and the end."""
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self.features:
            x = layer(x)
            yield x

    def maps(self, x: Tensor) -> list[Tensor]:
        """The map after the stem, after each grid, and the one that is pooled."""
        maps = []
        for number, last in enumerate(self.layers(x), 1):
            if number in self.ends:
                maps.append(last)
        return [*maps, last]

    def pooled(self, x: Tensor) -> Tensor:
        """(B, C): the last map's averages."""
        return self.maps(x)[-1].mean((2, 3))

    def decide(self, pooled: Tensor) -> Tensor:
        """(B, C) -> logits (B, classes)."""
        return self.classifier(F.dropout(pooled, self.dropout, self.training))

    def forward(self, x: Tensor) -> Tensor:
        return self.decide(self.pooled(x))

    def both(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and the auxiliary classifier's, if there is one."""
        *_, side, _, last = self.maps(x)
        return self.decide(last.mean((2, 3))), None if self.auxiliary is None else self.auxiliary(side)

    def rescale(self, scale: float) -> None:
        """Set s of every residual block."""
        for layer in self.features:
            if isinstance(layer, Residual):
                layer.scale = scale


def initialise(layer: nn.Module) -> None:
    """slim's: convolutions from a normal of variance 2 / fan_in cut at two deviations, linear ones Glorot, biases 0."""
    if isinstance(layer, nn.Conv2d):
        deviation = (1.3 * 2 / layer.weight[0].numel()) ** 0.5  # 1.3 makes up for the cut tails
        nn.init.trunc_normal_(layer.weight, 0.0, deviation, -2 * deviation, 2 * deviation)
    elif isinstance(layer, nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
    if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
        nn.init.zeros_(layer.bias)
