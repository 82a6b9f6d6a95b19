"""Convolutional networks stacked from two searched cells (Zoph et al., arXiv 1707.07012), with ScheduledDropPath."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from modules.common.distributed import world_size
from modules.nasnet.cells import Cell, Genotype
from modules.nasnet.operations import Norm, SameConv2d, State

STEMS = ("cifar", "imagenet")
TRUNCATED_STD = 0.87962566103423978  # of a standard normal cut at two standard deviations


@dataclass(frozen=True)
class Stem:
    """What comes before the cells.

    Attributes:
        kind: "cifar": a 3x3 convolution; "imagenet": one of stride 2 without padding, then two reduction cells with
            F / 4 and F / 2.
        in_channels: of the image.
        width: channels of the convolution; None is 3 F, as the code has it for CIFAR.
        shrink: average-pool the image by this factor first (searching on smaller images).
    Raises:
        ValueError: an unknown kind.
    """

    kind: str = "cifar"
    in_channels: int = 3
    width: int | None = None
    shrink: int = 1

    def __post_init__(self) -> None:
        if self.kind not in STEMS:
            raise ValueError(f"stem={self.kind!r}: expected one of {', '.join(STEMS)}")

    def side(self, input_size: int) -> int:
        """Pixels of the convolution's output along a side."""
        if self.kind == "cifar":
            return math.ceil(input_size / self.shrink)
        return (input_size // self.shrink - 3) // 2 + 1

    def convolution(self, width: int) -> nn.Conv2d:
        if self.kind == "cifar":
            return nn.Conv2d(self.in_channels, width, 3, padding=1, bias=False)
        return nn.Conv2d(self.in_channels, width, 3, stride=2, bias=False)


@dataclass(frozen=True)
class DropPath:
    """How likely a path is kept at the end of training.

    Attributes:
        keep: in (0, 1]; 1 never drops.
        by_depth: see keep_probability.
    Raises:
        ValueError: keep outside its range.
    """

    keep: float = 1.0
    by_depth: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep={self.keep}: expected a probability above 0, at most 1")


@dataclass(frozen=True)
class Size:
    """How often cells are stacked and how wide they are: the paper's "N @ P".

    Attributes:
        repeats: N.
        filters: F of the first stage; None takes it from `penultimate`.
        penultimate: P, channels of the last cell's output; None takes it from `filters`.
    Raises:
        ValueError: neither or both of filters and penultimate.
    """

    repeats: int
    filters: int | None = None
    penultimate: int | None = None

    def __post_init__(self) -> None:
        if (self.filters is None) == (self.penultimate is None):
            raise ValueError(f"filters={self.filters}, penultimate={self.penultimate}: expected one of them")

    def first_filters(self, genotype: Genotype) -> int:
        """F: as given, or from the channels of the last cell's output, 4 F in every output state.

        Raises ValueError if the channels do not divide.
        """
        if self.filters is not None:
            return self.filters

        assert self.penultimate is not None
        multiple = 4 * genotype.normal.multiple
        if self.penultimate % multiple or not self.penultimate:
            raise ValueError(f"penultimate={self.penultimate}: expected a multiple of {multiple} for this genotype")
        return self.penultimate // multiple


@dataclass(frozen=True)
class Regularisers:
    """What a network has for training alone.

    Attributes:
        auxiliary: a second classifier after the last cell before the second reduction.
        dropout: before the linear layer.
        drop_path: how paths are dropped.
    """

    auxiliary: bool = False
    dropout: float = 0.0
    drop_path: DropPath = DropPath()


@dataclass(frozen=True)
class BatchNorm:
    """Makes batch norms; the momentum is torch's, 1 - TensorFlow's decay."""

    eps: float = 1e-3
    momentum: float = 0.1

    def __call__(self, channels: int) -> nn.Module:
        return nn.BatchNorm2d(channels, eps=self.eps, momentum=self.momentum)


def keep_probability(cell: int, cells: int, final: float, progress: float, by_depth: bool = True) -> float:
    """ScheduledDropPath: 1 - progress (1 - p_cell), p_cell = 1 - (cell + 1) / cells (1 - final), cell from 0.

    progress is the fraction of the schedule that is over. Without `by_depth`, p_cell is `final` everywhere.
    """
    share = (cell + 1) / cells if by_depth else 1.0
    return 1 - min(1.0, progress) * share * (1 - final)


class AuxiliaryHead(nn.Module):
    """A classifier at two thirds of the depth: average pooling, 1x1 to 128, one full-size convolution, linear."""

    def __init__(self, channels: int, side: int, classes: int, norm: Norm) -> None:
        super().__init__()
        if side < 5:
            raise ValueError(f"auxiliary: a map of {side} pixels is too small for its 5x5 pooling; expected at least 5")
        pooled = (side - 5) // 3 + 1
        self.conv1 = SameConv2d(channels, 128, 1)
        self.bn1 = norm(128)
        self.conv2 = nn.Conv2d(128, 768, pooled, bias=False)
        self.bn2 = norm(768)
        self.fc = nn.Linear(768, classes)

    def forward(self, state: State) -> Tensor:
        x = F.avg_pool2d(state.relu, 5, 3)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)  # (B, 768, 1, 1)
        return self.fc(x.flatten(1))


class CellNetwork(nn.Module):
    """N normal cells per stage, a reduction between stages where the filters double, pooled to a linear layer.

    Args:
        genotype: the two cells.
        size: N and the filters of the first stage.
        classes: of the linear layer.
        input_size: side of the square image.
        stem: what comes before the cells.
        skip_reduction: a normal cell after a reduction takes as h_{i-1} what came before the reduction's own input.
        regularisers: what is there for training alone.
        norm: makes all batch norms.
    Raises:
        ValueError: sizes that do not divide.
    """

    def __init__(
        self,
        genotype: Genotype,
        size: Size,
        classes: int,
        input_size: int = 32,
        stem: Stem = Stem(),
        skip_reduction: bool = False,
        regularisers: Regularisers = Regularisers(),
        norm: Norm = BatchNorm(),
    ) -> None:
        super().__init__()
        self.genotype = genotype
        self.repeats = size.repeats
        self.filters = size.first_filters(genotype)
        self.shrink = stem.shrink
        self.drop_path = regularisers.drop_path
        self.progress = 0.0  # of ScheduledDropPath, in [0, 1]
        self.shared_masks = True  # several processes share the batch; off for a network that one of them trains alone
        if stem.kind == "imagenet" and self.filters % 4:
            raise ValueError(f"filters={self.filters}: the ImageNet stem needs a multiple of 4")

        width = 3 * self.filters if stem.width is None else stem.width
        self.stem = nn.Sequential(stem.convolution(width), norm(width))

        kinds = cell_kinds(size.repeats, self.filters, stem.kind)
        first = len(kinds) - 3 * size.repeats - 2  # of the cells after the stem
        self.auxiliary_at = first + 2 * size.repeats  # the last normal cell before the second reduction
        self.wiring = [cell_inputs(number, kinds, first, genotype, skip_reduction) for number in range(len(kinds))]
        shapes = self._make_cells(kinds, width, stem.side(input_size), norm)

        self.penultimate = sum(shapes[len(kinds) - 1][0])
        channels, side = shapes[self.auxiliary_at]
        self.auxiliary = AuxiliaryHead(sum(channels), side, classes, norm) if regularisers.auxiliary else None
        self.dropout = nn.Dropout(regularisers.dropout)
        self.fc = nn.Linear(self.penultimate, classes)
        self.initialise()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # faster on CPUs, and no slower on GPUs

    def _make_cells(
        self, kinds: Sequence[tuple[str, int]], width: int, side: int, norm: Norm
    ) -> dict[int, tuple[list[int], int]]:
        """Builds self.cells. Returns of each output (-1 is the stem's) the channels of its states and its side."""
        self.cells = nn.ModuleList()
        shapes: dict[int, tuple[list[int], int]] = {-1: ([width], side)}
        paths = []
        for number, (kind, filters) in enumerate(kinds):
            graph = self.genotype.normal if kind == "N" else self.genotype.reduction
            sources = [(channels, shapes[w][1]) for w in self.wiring[number] for channels in shapes[w][0]]
            sources += [sources[-1]] * (graph.inputs - len(sources))

            bare = 1 if number == 0 and graph.merged else None
            cell = Cell(graph, sources, filters, 2 if kind == "R" else 1, norm, bare)
            self.cells.append(cell)
            paths.append(len(cell.droppable))
            shapes[number] = ([sum(cell.channels)] if graph.merged else cell.channels, cell.side)

        self.bounds = list(pairwise(accumulate(paths, initial=0)))  # of each cell's paths in `masks`
        self.cell_of_path = [cell for cell, count in enumerate(paths) for _ in range(count)]
        return shapes

    def initialise(self) -> None:
        """Truncated normal of variance 2 / fan_out as TensorFlow counts it: k k outputs, k k for a depthwise kernel."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                fan_out = layer.weight[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
                fan_out *= layer.weight.shape[0] if getattr(layer, "groups", 1) == 1 else 1
                std = math.sqrt(2 / fan_out) / TRUNCATED_STD
                nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def masks(self, batch: int, device: torch.device) -> Tensor | None:
        """(all droppable paths, B, 1, 1, 1): 0, or 1 / p so that the mean stays; None when nothing is dropped.

        Drawn for the global batch and cut, so that several processes drop what one would.
        """
        keep = self.drop_path.keep
        if not self.training or keep == 1 or self.progress == 0:
            return None

        n = len(self.cells)
        by_cell = [keep_probability(c, n, keep, self.progress, self.drop_path.by_depth) for c in range(n)]
        p = torch.tensor([by_cell[c] for c in self.cell_of_path], device=device)

        total = batch
        start = 0
        if self.shared_masks and world_size() > 1:
            sizes = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(world_size())]
            dist.all_gather(sizes, torch.tensor([batch], device=device))
            total = int(sum(sizes))
            start = int(sum(sizes[: dist.get_rank()]))

        kept = torch.rand(len(p), total, device=device)[:, start : start + batch] < p[:, None]
        return (kept / p[:, None]).view(len(p), batch, 1, 1, 1)

    def outputs(self, x: Tensor) -> list[list[State]]:
        """What each cell puts out: one state if cells are merged. (B, C, S, S) -> per cell, states (B, c, s, s)."""
        if self.shrink > 1:
            x = F.avg_pool2d(x, self.shrink, ceil_mode=True)
        masks = self.masks(len(x), x.device)
        stem = [State(self.stem(x.contiguous(memory_format=torch.channels_last)))]

        outputs: list[list[State]] = []
        for cell, wires, (low, high) in zip(self.cells, self.wiring, self.bounds, strict=True):
            inputs = [state for w in wires for state in (stem if w < 0 else outputs[w])]
            inputs += inputs[-1:] * (cell.graph.inputs - len(inputs))  # type: ignore[union-attr, operator]
            outputs.append(cell(inputs, None if masks is None else masks[low:high]))
        return outputs

    def head(self, last: Sequence[State]) -> Tensor:
        """States (B, c, s, s) of the last cell -> logits (B, classes)."""
        pooled = [state.relu.mean((2, 3)) for state in last]
        return self.fc(self.dropout(torch.cat(pooled, 1) if len(pooled) > 1 else pooled[0]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> logits (B, classes)."""
        return self.head(self.outputs(x)[-1])

    def with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of the network and of the auxiliary head, where there is one. For training."""
        outputs = self.outputs(x)
        logits = self.head(outputs[-1])
        if self.auxiliary is None:
            return logits, None

        states = outputs[self.auxiliary_at]
        middle = states[0] if len(states) == 1 else State(torch.cat([state.raw for state in states], 1))
        return logits, self.auxiliary(middle)


def cell_kinds(repeats: int, filters: int, stem: str) -> list[tuple[str, int]]:
    """("N" for normal or "R" for reduction, filters) of every cell in order."""
    kinds = [("R", filters // 4), ("R", filters // 2)] if stem == "imagenet" else []
    for stage in range(3):
        stage_filters = filters * 2**stage
        if stage:
            kinds.append(("R", stage_filters))
        kinds += [("N", stage_filters)] * repeats
    return kinds


def cell_inputs(
    number: int, kinds: Sequence[tuple[str, int]], first: int, genotype: Genotype, skip_reduction: bool
) -> tuple[int, ...]:
    """Which outputs a cell reads, h_i first; -1 is the stem.

    Args:
        number: of the cell.
        kinds: see cell_kinds.
        first: the first cell after the stem's own.
        genotype, skip_reduction: see CellNetwork.
    """
    if not genotype.normal.merged or number == 0:
        return (number - 1,)
    after_reduction = kinds[number][0] == "N" and number > first and kinds[number - 1][0] == "R"
    return (number - 1, number - 3 if skip_reduction and after_reduction else number - 2)
