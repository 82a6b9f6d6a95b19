"""Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning (Szegedy et al., AAAI 2017).

arXiv 1602.07261. Inception blocks run branches of convolutions side by side and concatenate them. Inception-ResNet
blocks add what the branches found to their own input (section 3.2, figures 10 to 19):

    out = ReLU(x + s Expand1x1(concat(branches(x)))),    s = 0.1 to 0.3 keeps wide networks from dying (section 3.3)

Every convolution is Conv (no bias), batch norm (epsilon 1e-3), ReLU. The 1x1 expansion has a bias and neither, and
nothing is normalised after the addition. At equal cost the residual networks train much faster (section 5); the final
accuracy differs little.

Networks are written as the paper draws them: a branch is a line such as "1x1 64 - 3x3 96 - 3x3/2V 256", see
modules.common.inception.

What deviates, and where paper and released code (TF-slim) differ:
- released Inception-ResNet-v2 is another network than the paper's: another stem, 10/20/10 blocks instead of 5/10/5 on
  320/1088/2080 instead of 384/1152/2144 filters, a last block with s = 1 and no ReLU, 1x1 1536 before the pooling.
  Both are here. The paper's figures print 1154 and 2048 filters for its expansions, which cannot be added.
- the stem's figure leaves out a stride of 2; the order 1x7, 7x1 in Inception-v4's stem is the code's.
- slim's auxiliary classifier is an option, off in the paper's recipe, which does not mention it.
- the plain block, an expansion with batch norm and ReLU and no shortcut, is a baseline of this suite.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MaxMetric, SumMetric

from modules.common.averaging import WeightAverage
from modules.common.classifier import ClassificationModule
from modules.common.inception import Auxiliary, Build, Mixed, Unit
from modules.common.metrics import Classification
from modules.common.module import OptimizerFactory, StageModule
from modules.common.schedules import Position, Schedule

JOINS = ("concat", "residual", "plain")


def staircase(position: Position, decay: float = 0.94, every: float = 2.0) -> float:
    """Learning rate as a factor: times `decay` after each `every` epochs, constant in between."""
    done = position.epoch + position.step / position.steps_per_epoch
    return float(decay ** (done // every))


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


def ported(model_name: str, classes: int = 1000, pretrained: bool = True) -> Inception:
    """Our network with timm's weights.

    Args:
        model_name: e.g. "inception_v4.tf_in1k", "inception_resnet_v2.tf_in1k", "inception_resnet_v2.tf_ens_adv_in1k".
        classes: outputs; another number than 1000 gets a new last layer.
        pretrained: false takes timm's random weights.
    Raises:
        ValueError: another network.
    """
    import timm

    builders = {"inception_v4": inception_v4, "inception_resnet_v2": inception_resnet_v2_released}
    name = model_name.partition(".")[0]
    if name not in builders:
        raise ValueError(f"model_name={model_name!r}: expected one of {', '.join(builders)}, with or without a tag")
    theirs = timm.create_model(model_name, pretrained=pretrained, num_classes=classes)
    network = builders[name](classes)
    network.load_state_dict({timm_key(key): value for key, value in theirs.state_dict().items()})
    return network


class InceptionClassifier(ClassificationModule):
    """A network trained on hard labels, evaluated with a running average of its weights.

    Validation and test use the average where there is one; `test/raw_top1` is then that of the last weights.
    `test/curve_error` is the mean over epochs of the validation error in percent: the area under its curve, per epoch.
    `test/dead` is how many channels of the last map, in percent, are 0 for every test image.

    Args:
        network: see Inception.
        classes: number of classes.
        average_decay: of the running average; None evaluates the last weights.
        auxiliary_weight: of the auxiliary classifier's loss, if the network has one.
        label_smoothing: in [0, 1).
        tolerant: go on when the loss is no longer finite, to count such networks instead of failing. A network whose
            outputs are not finite then predicts all classes alike.
        optimizer, schedule: see StageModule. Batch norm and biases get no weight decay.
    """

    curve: Tensor  # validation error of each epoch, percent

    def __init__(
        self,
        network: Inception,
        classes: int,
        average_decay: float | None = None,
        auxiliary_weight: float = 0.4,
        label_smoothing: float = 0.0,
        tolerant: bool = False,
        optimizer: OptimizerFactory | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(network, classes, optimizer, schedule)
        self.network: Inception = network
        self.average = None if average_decay is None else WeightAverage(network, average_decay)
        self.auxiliary_weight, self.label_smoothing, self.tolerant = auxiliary_weight, label_smoothing, tolerant
        self.register_buffer("curve", torch.empty(0))
        self.raw_metrics = Classification(classes, ("top1",))
        self.peaks = Peaks(network.out_channels)
        own = [name for name, _ in self.named_buffers() if name.startswith(("average.", "curve"))]
        self._ddp_params_and_buffers_to_ignore = own  # every process arrives at the same ones

    def trained(self) -> list[dict[str, Any]]:
        weights = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim <= 1]
        return [{"params": weights}, {"params": others, "weight_decay": 0.0}]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        logits, auxiliary = self.network.both(x)  # (B, classes) each
        loss = F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)
        if auxiliary is not None:
            loss = loss + self.auxiliary_weight * F.cross_entropy(auxiliary, y, label_smoothing=self.label_smoothing)
        if self.tolerant:
            loss = loss.nan_to_num(0.0, 1e4)
        self.track(len(y), loss=loss, top1=100 * (logits.argmax(-1) == y).float().mean())
        return loss

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        if self.average is not None:
            self.average.update(self.network)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> logits (B, classes), of the averaged weights outside of training."""
        average = None if self.training else self.average
        logits = self.network(x) if average is None else average.call(self.network, x)
        return logits.nan_to_num(0.0, 0.0, 0.0) if self.tolerant else logits

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        pooled = self.network.pooled(batch[0])
        self.peaks.update(pooled)
        if self.average is not None:
            self.raw_metrics.update(self.network.decide(pooled).nan_to_num(0.0), batch[1])

    def _report(self, split: str, measure: Classification) -> None:
        found = measure.compute()
        if split == "val":
            self.curve = torch.cat([self.curve, 100 - found["top1"].reshape(1).to(self.curve)])
        else:
            found["dead"] = self.peaks.dead()
            if len(self.curve):
                found["curve_error"] = self.curve.mean()
            if self.average is not None:
                found["raw_top1"] = self.raw_metrics.compute()["top1"]
                self.raw_metrics.reset()
        self.log_dict({f"{split}/{name}": value for name, value in found.items()})
        measure.reset()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if prefix + "curve" in state_dict:  # as long as the training that made it
            self.curve = torch.empty_like(state_dict[prefix + "curve"], device=self.curve.device)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def pictures(self, data: Any) -> dict[str, Figure]:
        """The test images that the network is surest of among those it gets wrong."""
        x, y = next(iter(data.test_dataloader()))
        p = self(x.to(self.device)).float().softmax(-1).cpu()
        sure, guess = p.max(-1)
        order = sure.masked_fill(guess == y, -1).argsort(descending=True)[:8]
        wrong = [int(i) for i in order if guess[i] != y[i]]
        if not wrong:
            return {}
        mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (data.spec.mean, data.spec.std))
        figure = Figure(figsize=(9, 1.9), layout="constrained")
        for ax, i in zip(figure.subplots(1, len(wrong), squeeze=False)[0], wrong, strict=True):
            ax.imshow((x[i].cpu() * std + mean).clamp(0, 1).permute(1, 2, 0), cmap="gray", vmin=0, vmax=1)
            names = data.spec.classes
            ax.set_title(f"{names[int(guess[i])]} {float(sure[i]):.2f}\nis {names[int(y[i])]}", fontsize=8)
            ax.axis("off")
        return {"surest mistakes": figure}


class Peaks(MaxMetric):
    """The largest pooled activation of each channel, over an epoch and all processes."""

    def __init__(self, channels: int) -> None:
        super().__init__(nan_strategy="disable")
        self.add_state("max_value", torch.zeros(channels), dist_reduce_fx="max")

    def update(self, pooled: Tensor) -> None:  # type: ignore[override]
        """(B, C); what is not finite counts as silent."""
        self.max_value = torch.maximum(self.max_value, pooled.float().nan_to_num(0.0, 0.0, 0.0).amax(0))

    def dead(self) -> Tensor:
        """Channels that never rose above 0, percent; starts anew."""
        share = 100 * (self.compute() <= 0).float().mean()
        self.reset()
        return share


class Race(StageModule):
    """Two trained classifiers, epoch by epoch and on the same test images. Not trained.

    Logs, all from the first one's side: `area_gap`, the difference of the areas under the validation error per epoch,
    in points; `lead`, the smallest lead in any epoch; `match`, the share of the epochs after which it is as good as the
    second one at its end (above 1: never); `gap`, the difference of the test accuracies.

    Args:
        first, second: trained for as many epochs.
        classes: number of classes.
        titles: what to call them in the picture.
    Raises:
        ValueError: at the test, if they were not validated in as many epochs.
    """

    def __init__(
        self,
        first: InceptionClassifier,
        second: InceptionClassifier,
        classes: int,
        titles: Sequence[str] = ("first", "second"),
    ) -> None:
        super().__init__()
        self.first, self.second, self.titles = first, second, list(titles)
        self.measures = [Classification(classes, ("top1",)) for _ in range(2)]
        for index, measure in enumerate(self.measures):
            self.add_module(f"metrics_{index}", measure)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), self.second(x)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        for measure, logits in zip(self.measures, self(batch[0]), strict=True):
            measure.update(logits, batch[1])

    def on_test_epoch_end(self) -> None:
        first, second = (measure.compute() for measure in self.measures)
        found = {**race(self.first.curve, self.second.curve), "gap": first["top1"] - second["top1"], "n": first["n"]}
        for measure in self.measures:
            measure.reset()
        self.log_dict({f"test/{name}": value for name, value in found.items()})

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Both validation errors, epoch by epoch."""
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        ax = figure.subplots()
        for module, title in zip((self.first, self.second), self.titles, strict=True):
            ax.plot(range(1, len(module.curve) + 1), module.curve.cpu(), marker="o", markersize=3, label=title)
        ax.set(xlabel="epoch", ylabel="validation error, %", ylim=(0, 100))
        ax.legend(fontsize=8)
        return {"error by epoch": figure}


def race(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """Two curves of errors (E,) in percent, see Race. Raises ValueError if they are empty or differ in length."""
    if len(first) != len(second) or not len(first):
        raise ValueError(f"validated in {len(first)} and {len(second)} epochs: expected as many, and some")
    lead = second - first
    reached = (first <= second[-1]).nonzero()
    epochs = reached[0, 0] + 1 if len(reached) else torch.tensor(len(first) + 1)
    return {"area_gap": lead.mean(), "lead": lead.min(), "match": epochs.float() / len(first)}


class Growth(StageModule):
    """How much larger the activations behind the last block are than behind the stem, at initialisation.

    The same random weights with several s, on one batch after the other with the statistics of that batch. Logs
    `test/growth_<s>`, a ratio of standard deviations, and `test/stem`, the stem's. Not trained.

    Args:
        network: makes an Inception-ResNet.
        scales: the values of s.
    """

    def __init__(self, network: Callable[[], Inception], scales: Sequence[float]) -> None:
        super().__init__()
        self.network, self.scales = network(), list(scales)
        names = ["stem", *(f"growth_{s:g}" for s in self.scales)]
        self.sums = {name: SumMetric(nan_strategy="disable") for name in [*names, "batches"]}
        for number, metric in enumerate(self.sums.values()):  # a module's name may hold no dot
            self.add_module(f"sum_{number}", metric)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)

    def deviations(self, x: Tensor, scale: float) -> Tensor:
        """Standard deviation of the activations behind each layer, from the stem on, with that s; (layers,)."""
        self.network.train()  # batch statistics
        self.network.rescale(scale)
        found = [layer.float().std() for layer in self.network.layers(x)]
        return torch.stack(found[self.network.ends[0] - 1 :])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        last = self.network.ends[-1] - self.network.ends[0]
        for scale in self.scales:
            found = self.deviations(batch[0], scale)
            self.sums[f"growth_{scale:g}"].update(found[last] / found[0])
        self.sums["stem"].update(found[0])
        self.sums["batches"].update(1.0)

    def on_test_epoch_end(self) -> None:
        found = {name: metric.compute() for name, metric in self.sums.items()}
        batches = found.pop("batches")
        self.log_dict({f"test/{name}": value / batches for name, value in found.items()})
        for metric in self.sums.values():
            metric.reset()

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Activations layer by layer, for every s."""
        x = next(iter(data.test_dataloader()))[0].to(self.device)
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        ax = figure.subplots()
        for scale in self.scales:
            ax.plot(self.deviations(x, scale).cpu(), marker="o", markersize=3, label=f"s = {scale:g}")
        ax.set(xlabel="layers after the stem", ylabel="standard deviation", ylim=(0, None))
        ax.legend(fontsize=8)
        return {"activations by depth": figure}
