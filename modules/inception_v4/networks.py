"""Inception-v4 and the Inception-ResNets of arXiv 1602.07261, Inception-v3, and the networks as TF-slim released them.

Inception-ResNet blocks add what their branches found to their own input (section 3.2, figures 10 to 19):

    out = ReLU(x + s Expand1x1(concat(branches(x)))),    s = 0.1 to 0.3 keeps wide networks from dying (section 3.3)

Every convolution is Conv (no bias), batch norm (epsilon 1e-3), ReLU. The 1x1 expansion has a bias and neither, and
nothing is normalised after the addition.

Where paper and released code differ, and why ours is as it is:
- Released Inception-ResNet-v2 is another network than the paper's: another stem, 10/20/10 blocks instead of 5/10/5 on
  320/1088/2080 instead of 384/1152/2144 filters, a last block with s = 1 and no ReLU, 1x1 1536 before the pooling. Both
  are here: the paper's numbers belong to one, the released weights to the other.
- The paper's figures print 1154 and 2048 filters for its expansions. Those cannot be added; ours are 1152 and 2144.
- The stem's figure leaves out a stride of 2, without which the next map's size is wrong. The order 1x7, 7x1 in
  Inception-v4's stem is the code's, so that its weights fit.
- slim's auxiliary classifier is an option, off by default: the paper does not mention it.
- Batch norms have a gain, as the paper's sizes and timm's have; slim's have none, because
  the convolution behind the ReLU can take it over.
- The plain block, an expansion with batch norm and ReLU and no shortcut, is this suite's baseline: it changes nothing
  but the shortcut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
        self.scale, self.relu = scale, relu
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
        build = Build(width, momentum)
        layers: list[Mixed] = []
        self.ends: list[int] = []  # layers until the end of the stem and of each grid
        channels = in_channels

        def add(layer: Mixed) -> int:
            layers.append(layer)
            return layer.out_channels

        def block(grid: Grid, last: bool) -> Mixed:
            if join == "residual":
                linear = last and grid.linear_last
                return Residual(channels, grid.branches, build, 1.0 if linear else grid.scale, not linear)
            return (Plain if join == "plain" else Mixed)(channels, grid.branches, build)

        for row in stem:
            channels = add(Mixed(channels, row, build))
        self.ends.append(len(layers))
        side_channels = channels
        for index, grid in enumerate(grids):
            if grid.reduction:
                channels = add(Mixed(channels, grid.reduction, build))
            for number in range(grid.repeats):
                channels = add(block(grid, number == grid.repeats - 1))
            self.ends.append(len(layers))
            if index == len(grids) - 2:
                side_channels = channels
        if end:
            channels = add(Mixed(channels, [end], build))
        self.features = nn.ModuleList(layers)
        self.out_channels, self.dropout = channels, dropout
        self.classifier = nn.Linear(channels, classes)
        self.auxiliary = None if auxiliary_side is None else Auxiliary(side_channels, auxiliary_side, classes, build)
        self.apply(initialise)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def layers(self, x: Tensor) -> Iterator[Tensor]:
        """The map behind each layer in turn: rows of the stem, reductions, blocks and the end."""
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in self.features:
            x = layer(x)
            yield x

    def maps(self, x: Tensor) -> list[Tensor]:
        """The map behind the stem, behind each grid, and the one that is pooled."""
        found = []
        for number, last in enumerate(self.layers(x), 1):
            if number in self.ends:
                found.append(last)
        return [*found, last]

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


# The networks. Sizes at the line ends are those of 299x299 inputs.

STEM_V4 = (  # figure 3, also of the paper's Inception-ResNet-v2
    ("3x3/2V 32 - 3x3V 32 - 3x3 64",),  # 147x147x64
    ("max", "3x3/2V 96"),  # 73x73x160
    ("1x1 64 - 3x3V 96", "1x1 64 - 1x7 64 - 7x1 64 - 3x3V 96"),  # 71x71x192
    ("3x3/2V 192", "max"),  # 35x35x384
)
STEM_V1 = (("3x3/2V 32 - 3x3V 32 - 3x3 64 - max - 1x1 80 - 3x3V 192 - 3x3/2V 256",),)  # figure 14: 35x35x256
STEM_V3 = (("3x3/2V 32 - 3x3V 32 - 3x3 64 - max - 1x1 80 - 3x3V 192 - max",),)  # 35x35x192
STEM_RELEASED = (*STEM_V3, ("1x1 96", "1x1 48 - 5x5 64", "1x1 64 - 3x3 96 - 3x3 96", "avg - 1x1 64"))  # 35x35x320


def reduction_a(k: int, l: int, m: int, n: int) -> tuple[str, str, str]:  # noqa: E741 - the paper's letters
    """Figure 7 with the filters of table 1: 35x35 to 17x17."""
    return f"3x3/2V {n}", f"1x1 {k} - 3x3 {l} - 3x3/2V {m}", "max"


def inception_v4(classes: int = 1000, **options: Any) -> Inception:
    """Figures 3 to 9; options: see Inception."""
    a = Grid(("1x1 96", "1x1 64 - 3x3 96", "1x1 64 - 3x3 96 - 3x3 96", "avg - 1x1 96"), 4)  # 35x35x384
    b = Grid(
        (
            "1x1 384",
            "1x1 192 - 1x7 224 - 7x1 256",
            "1x1 192 - 7x1 192 - 1x7 224 - 7x1 224 - 1x7 256",
            "avg - 1x1 128",
        ),
        7,
        reduction_a(192, 224, 256, 384),
    )  # 17x17x1024
    c = Grid(
        (
            "1x1 256",
            "1x1 384 - (1x3 256 | 3x1 256)",
            "1x1 384 - 3x1 448 - 1x3 512 - (1x3 256 | 3x1 256)",
            "avg - 1x1 256",
        ),
        3,
        ("1x1 192 - 3x3/2V 192", "1x1 256 - 1x7 256 - 7x1 320 - 3x3/2V 320", "max"),
    )  # 8x8x1536
    return Inception(STEM_V4, (a, b, c), classes, **options)


def inception_resnet_v1(
    classes: int = 1000,
    scale: float = 0.1,
    repeats: Sequence[int] = (5, 10, 5),
    join: str = "residual",
    **options: Any,
) -> Inception:
    """Figures 10 to 15, at the cost of Inception-v3."""
    a = Grid(("1x1 32", "1x1 32 - 3x3 32", "1x1 32 - 3x3 32 - 3x3 32"), repeats[0], (), scale)  # 35x35x256
    b = Grid(("1x1 128", "1x1 128 - 1x7 128 - 7x1 128"), repeats[1], reduction_a(192, 192, 256, 384), scale)
    c = Grid(
        ("1x1 192", "1x1 192 - 1x3 192 - 3x1 192"),
        repeats[2],
        ("1x1 256 - 3x3/2V 384", "1x1 256 - 3x3/2V 256", "1x1 256 - 3x3 256 - 3x3/2V 256", "max"),
        scale,
    )  # b: 17x17x896, c: 8x8x1792
    return Inception(STEM_V1, (a, b, c), classes, join=join, **options)


def resnet_v2_grids(repeats: Sequence[int], scales: Sequence[float], linear_last: bool) -> tuple[Grid, Grid, Grid]:
    """The blocks of figures 16 to 19, which the paper's and the released network share."""
    a = Grid(("1x1 32", "1x1 32 - 3x3 32", "1x1 32 - 3x3 48 - 3x3 64"), repeats[0], (), scales[0])
    b = Grid(("1x1 192", "1x1 128 - 1x7 160 - 7x1 192"), repeats[1], reduction_a(256, 256, 384, 384), scales[1])
    c = Grid(
        ("1x1 192", "1x1 192 - 1x3 224 - 3x1 256"),
        repeats[2],
        ("1x1 256 - 3x3/2V 384", "1x1 256 - 3x3/2V 288", "1x1 256 - 3x3 288 - 3x3/2V 320", "max"),
        scales[2],
        linear_last,
    )
    return a, b, c


def inception_resnet_v2(
    classes: int = 1000,
    scale: float = 0.1,
    repeats: Sequence[int] = (5, 10, 5),
    join: str = "residual",
    **options: Any,
) -> Inception:
    """As the paper draws it, at the cost of Inception-v4: 35x35x384, 17x17x1152, 8x8x2144."""
    grids = resnet_v2_grids(repeats, (scale,) * 3, False)
    return Inception(STEM_V4, grids, classes, join=join, **options)


def inception_resnet_v2_released(
    classes: int = 1000, repeats: Sequence[int] = (10, 20, 10), **options: Any
) -> Inception:
    """As released in TF-slim: 35x35x320, 17x17x1088, 8x8x2080, then 1x1 1536."""
    grids = resnet_v2_grids(repeats, (0.17, 0.10, 0.20), True)
    return Inception(STEM_RELEASED, grids, classes, join="residual", end="1x1 1536", **options)


def inception_v3(classes: int = 1000, **options: Any) -> Inception:
    """The baseline (arXiv 1512.00567), without its auxiliary classifier unless asked for."""

    def a(pool: int, repeats: int) -> Grid:  # 35x35x256, 35x35x288
        return Grid(("1x1 64", "1x1 48 - 5x5 64", "1x1 64 - 3x3 96 - 3x3 96", f"avg - 1x1 {pool}"), repeats)

    def b(c: int, repeats: int, reduction: Sequence[str] = ()) -> Grid:  # 17x17x768
        long = f"1x1 {c} - 7x1 {c} - 1x7 {c} - 7x1 {c} - 1x7 192"
        return Grid(("1x1 192", f"1x1 {c} - 1x7 {c} - 7x1 192", long, "avg - 1x1 192"), repeats, reduction)

    last = Grid(
        ("1x1 320", "1x1 384 - (1x3 384 | 3x1 384)", "1x1 448 - 3x3 384 - (1x3 384 | 3x1 384)", "avg - 1x1 192"),
        2,
        ("1x1 192 - 3x3/2V 320", "1x1 192 - 1x7 192 - 7x1 192 - 3x3/2V 192", "max"),
    )  # 8x8x2048
    middle = b(128, 1, ("3x3/2V 384", "1x1 64 - 3x3 96 - 3x3/2V 96", "max"))
    return Inception(STEM_V3, (a(32, 1), a(64, 2), middle, b(160, 2), b(192, 1), last), classes, **options)


# Released weights.

V4_FORKS = {"1a": "1.branches.0", "1b": "1.branches.1", "3a": "3.branches.0", "3b": "3.branches.1"}
RELEASED_STEM = {"1a": 0, "2a": 1, "2b": 2, "3b": 4, "4a": 5}
RELEASED_START = {"mixed_5b": 1, "repeat": 2, "mixed_6a": 12, "repeat_1": 13, "mixed_7a": 33, "repeat_2": 34}


def timm_key(key: str) -> str:
    """Our name of a weight of timm's `inception_v4` or `inception_resnet_v2` (the released one).

    timm's files hold the TensorFlow weights, without the background class.

    Raises:
        KeyError: neither network has it.
    """
    if found := re.fullmatch(r"(?:last_linear|classif)\.(\w+)", key):
        return f"classifier.{found[1]}"
    if found := re.fullmatch(r"features\.([012])\.((?:conv|bn)\.\w+)", key):
        return f"features.0.branches.0.{found[1]}.{found[2]}"
    if found := re.fullmatch(r"conv2d_(1a|2a|2b|3b|4a)\.((?:conv|bn)\.\w+)", key):
        return f"features.0.branches.0.{RELEASED_STEM[found[1]]}.{found[2]}"
    if found := re.fullmatch(r"conv2d_7b\.((?:conv|bn)\.\w+)", key):
        return f"features.44.branches.0.0.{found[1]}"
    place, _, rest = key.partition(".branch") if ".branch" in key else key.partition(".conv")
    if found := re.fullmatch(r"features\.(\d+)", place):
        layer = int(found[1]) - 2
    elif place == "block8":
        layer = 43
    elif (found := re.fullmatch(r"(\w+?)(?:\.(\d+))?", place)) and found[1] in RELEASED_START:
        layer = RELEASED_START[found[1]] + int(found[2] or 0)
    else:
        raise KeyError(f"{key!r} belongs to neither inception_v4 nor inception_resnet_v2")
    if ".branch" not in key:  # an expansion, or the one convolution beside a pooling
        if rest.startswith("2d."):
            return f"features.{layer}.expand{rest[2:]}"
        return f"features.{layer}.branches.{1 if layer == 1 else 0}.0{rest}"
    found = re.fullmatch(r"(\d)(?:_(\d[ab]?)|\.(\d))?\.((?:conv|bn)\.\w+)", rest)
    if found is None:
        raise KeyError(f"{key!r} belongs to neither inception_v4 nor inception_resnet_v2")
    branch, part, number, tail = found.groups()
    step = V4_FORKS.get(part, part) + (".0" if part in V4_FORKS else "") if part else number or "0"
    return f"features.{layer}.branches.{branch}.{step}.{tail}"


def carried(name: str, theirs: nn.Module, ours: nn.Module) -> dict[str, Tensor]:
    """The weights of timm's network `name` by our names. Those of inception_v3 are in the same order as ours.

    Raises ValueError for an inception_v3 with other weights, e.g. an auxiliary classifier's.
    """
    values = theirs.state_dict()
    if name == "inception_v3":
        return dict(zip(ours.state_dict(), values.values(), strict=True))
    return {timm_key(key): value for key, value in values.items()}


def ported(model_name: str, classes: int = 1000, pretrained: bool = True) -> Inception:
    """Our network with timm's weights.

    timm's inception_v3 counts the padding in its average pools; ours does not, and neither did TensorFlow, where the
    weights come from.

    Args:
        model_name: e.g. "inception_v3.tf_in1k", "inception_v4.tf_in1k", "inception_resnet_v2.tf_in1k".
        classes: outputs; another number than 1000 gets a new last layer.
        pretrained: false takes timm's random weights.
    Raises:
        ValueError: another network.
    """
    import timm

    builders = {
        "inception_v3": inception_v3,
        "inception_v4": inception_v4,
        "inception_resnet_v2": inception_resnet_v2_released,
    }
    name = model_name.partition(".")[0]
    if name not in builders:
        raise ValueError(f"model_name={model_name!r}: expected one of {', '.join(builders)}, with or without a tag")
    theirs = timm.create_model(model_name, pretrained=pretrained, num_classes=classes)
    network = builders[name](classes)
    network.load_state_dict(carried(name, theirs, network))
    return network
