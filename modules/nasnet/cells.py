"""Convolutional networks stacked from two searched cells: the cell as a graph, its operations, the generic builder.

A cell reads its inputs (h_i and h_{i-1} in most spaces), makes B new hidden states, each from two earlier ones by an
operation on either and a way to combine them, and puts out the states that no block used (Zoph et al., arXiv
1707.07012).
"""

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
from modules.nasnet.operations import (
    OPERATIONS,
    ConvNorm,
    FactorizedReduction,
    Norm,
    ReluConvNorm,
    SameConv2d,
    State,
    Unchanged,
    operation,
)

COMBINATIONS = ("add", "concat", "add_layer_norm", "add_instance_norm")
STEMS = ("cifar", "imagenet")
TRUNCATED_STD = 0.87962566103423978  # of a standard normal cut at two standard deviations


@dataclass(frozen=True)
class Block:
    """A new hidden state: combine(first_op(state first), second_op(state second))."""

    first: int
    second: int
    first_op: str
    second_op: str
    combine: str = "add"


@dataclass(frozen=True)
class Graph:
    """One cell. State k < inputs is an input (0 is h_i, 1 is h_{i-1}); block b makes state inputs + b.

    Attributes:
        blocks: B of them.
        outputs: states that leave the cell.
        inputs: how many states come in.
        merged: the outputs leave as one depth-concat; else each is an input of the next cell.
    Raises:
        ValueError: an unknown operation or combination, or a state that does not exist.
    """

    blocks: tuple[Block, ...]
    outputs: tuple[int, ...]
    inputs: int = 2
    merged: bool = True

    def __post_init__(self) -> None:
        for number, block in enumerate(self.blocks):
            for value, valid in (
                (block.first_op, OPERATIONS),
                (block.second_op, OPERATIONS),
                (block.combine, COMBINATIONS),
            ):
                if value not in valid:
                    raise ValueError(f"block {number}: {value!r}: expected one of {', '.join(valid)}")
            if not all(0 <= state < self.inputs + number for state in (block.first, block.second)):
                raise ValueError(f"block {number} reads a state that does not exist yet: {block}")
        if not self.outputs or not all(0 <= k < self.inputs + len(self.blocks) for k in self.outputs):
            raise ValueError(
                f"outputs={self.outputs}: expected some of the states 0 to {self.inputs + len(self.blocks) - 1}"
            )

    @classmethod
    def of(cls, blocks: Sequence[Block], inputs: int = 2, merged: bool = True) -> Graph:
        """With the states that no block reads as outputs; without merging, with all new states."""
        used = {state for block in blocks for state in (block.first, block.second)}
        states = range(inputs + len(blocks))
        outputs = [k for k in states if k not in used] if merged else list(states)[inputs:]
        return cls(tuple(blocks), tuple(outputs), inputs, merged)

    def width(self, state: int) -> int:
        """Channels of a state as a multiple of the cell's F."""
        return 2 if state >= self.inputs and self.blocks[state - self.inputs].combine == "concat" else 1

    @property
    def multiple(self) -> int:
        """Channels of all outputs together as a multiple of F."""
        return sum(self.width(k) for k in self.outputs)


@dataclass(frozen=True)
class Genotype:
    """The two cells of an architecture: stride 1, and stride 2 on operations that read the cell's inputs."""

    normal: Graph
    reduction: Graph

    def __post_init__(self) -> None:
        if (self.normal.inputs, self.normal.merged) != (self.reduction.inputs, self.reduction.merged):
            raise ValueError("normal and reduction: expected the same inputs and merged")


class Cell(nn.Module):
    """One cell at F filters.

    Args:
        graph: what it computes.
        sources: (channels, side) of each input; the first one's side is the cell's.
        filters: F.
        stride: 2 for a reduction cell.
        norm: makes batch norms.
        bare: inputs from this one on are taken as they are (the h_{i-1} that the first cell lacks).
    """

    def __init__(
        self,
        graph: Graph,
        sources: Sequence[tuple[int, int]],
        filters: int,
        stride: int,
        norm: Norm,
        bare: int | None = None,
    ) -> None:
        super().__init__()
        self.graph, side = graph, sources[0][1]
        self.side = math.ceil(side / stride)
        self.adapt = nn.ModuleList()
        channels = []
        for k, (i, input_side) in enumerate(sources):
            raw = bare is not None and k >= bare
            if not raw and input_side != side:
                self.adapt.append(FactorizedReduction(i, filters, norm))
            elif not raw and (k == 0 or i != filters):
                self.adapt.append(ReluConvNorm(i, filters, 1, norm))
            else:
                self.adapt.append(Unchanged())
            channels.append(i if raw else filters)
        self.operations, self.norms = nn.ModuleList(), nn.ModuleList()
        for block in graph.blocks:
            for k, name in ((block.first, block.first_op), (block.second, block.second_op)):
                self.operations.append(operation(name, channels[k], filters, stride if k < graph.inputs else 1, norm))
            channels.append(filters * graph.width(len(channels)))
            groups = {"add_layer_norm": 1, "add_instance_norm": filters}.get(block.combine)
            self.norms.append(nn.Identity() if groups is None else nn.GroupNorm(groups, filters))
        self.leave = nn.ModuleDict()
        for k in graph.outputs:
            if k < graph.inputs and stride == 2:
                self.leave[str(k)] = FactorizedReduction(channels[k], filters, norm, rectify=False)
            elif k < graph.inputs and channels[k] != filters:
                self.leave[str(k)] = ConvNorm(channels[k], filters, norm)
        self.channels = [filters * graph.width(k) for k in graph.outputs]
        # paths that may be dropped: every operation's output but those of identities
        names = [name for block in graph.blocks for name in (block.first_op, block.second_op)]
        self.droppable = [j for j, name in enumerate(names) if name != "identity"]
        self.mask_of = {j: number for number, j in enumerate(self.droppable)}

    def forward(self, inputs: Sequence[State], masks: Tensor | None = None) -> list[State]:
        """States in, states out (one, if merged). masks: (droppable paths, B, 1, 1, 1), 0 or 1 / keep probability."""
        states = [State(adapt(x)) for adapt, x in zip(self.adapt, inputs, strict=True)]
        for b, (block, norm) in enumerate(zip(self.graph.blocks, self.norms, strict=True)):
            x, y = (self.path(2 * b + side, states[k], masks) for side, k in enumerate((block.first, block.second)))
            states.append(State(torch.cat([x, y], 1) if block.combine == "concat" else norm(x + y)))
        out = [self.leave[str(k)](states[k]) if str(k) in self.leave else states[k].raw for k in self.graph.outputs]
        return [State(torch.cat(out, 1) if len(out) > 1 else out[0])] if self.graph.merged else [State(x) for x in out]

    def path(self, number: int, state: State, masks: Tensor | None) -> Tensor:
        x = self.operations[number](state)
        # of x's type: a float32 mask would promote what mixed precision keeps in bf16
        return x if masks is None or number not in self.mask_of else x * masks[self.mask_of[number]].to(x.dtype)


class AuxiliaryHead(nn.Module):
    """A classifier at two thirds of the depth: average pooling, 1x1 to 128, one full-size convolution, linear."""

    def __init__(self, channels: int, side: int, classes: int, norm: Norm) -> None:
        super().__init__()
        pooled = (side - 5) // 3 + 1
        if side < 5:
            raise ValueError(f"auxiliary: a map of {side} pixels is too small for its 5x5 pooling; expected at least 5")
        self.conv1, self.bn1 = SameConv2d(channels, 128, 1), norm(128)
        self.conv2, self.bn2 = nn.Conv2d(128, 768, pooled, bias=False), norm(768)
        self.fc = nn.Linear(768, classes)

    def forward(self, state: State) -> Tensor:
        x = F.avg_pool2d(state.relu, 5, 3)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.fc(F.relu(self.bn2(self.conv2(x)), inplace=True).flatten(1))


def keep_probability(cell: int, cells: int, final: float, progress: float, by_depth: bool = True) -> float:
    """ScheduledDropPath: 1 - progress (1 - p_cell), p_cell = 1 - (cell + 1) / cells (1 - final), cell from 0.

    progress is the fraction of the schedule that is over. Without `by_depth`, p_cell is `final` everywhere.
    """
    share = (cell + 1) / cells if by_depth else 1.0
    return 1 - min(1.0, progress) * share * (1 - final)


class CellNetwork(nn.Module):
    """N normal cells per stage, a reduction between stages where the filters double, pooled to a linear layer.

    Args:
        genotype: the two cells.
        repeats: N.
        filters: F of the first stage; None takes it from `penultimate`.
        penultimate: channels of the last cell's output ("N @ P"); None takes it from `filters`.
        classes: of the linear layer.
        in_channels, input_size: of the square input.
        stem: "cifar": a 3x3 convolution; "imagenet": one of stride 2 without padding, then two reduction cells with
            F / 4 and F / 2.
        stem_width: channels of the stem's convolution; None is 3 F, as the code has it for CIFAR.
        shrink: average-pool the input by this factor first (searching on smaller images).
        skip_reduction: a normal cell after a reduction takes as h_{i-1} what came before the reduction's own input.
        auxiliary: with a second classifier after the last cell before the second reduction, for training alone.
        dropout: before the linear layer.
        keep: final keep probability of paths; 1 never drops.
        keep_by_depth: see keep_probability.
        bn_eps, bn_momentum: of all batch norms (torch's momentum: 1 - TensorFlow's decay).
    Raises:
        ValueError: neither or both of filters and penultimate, sizes that do not divide, an unknown stem.
    """

    def __init__(
        self,
        genotype: Genotype,
        repeats: int,
        classes: int,
        filters: int | None = None,
        penultimate: int | None = None,
        in_channels: int = 3,
        input_size: int = 32,
        stem: str = "cifar",
        stem_width: int | None = None,
        shrink: int = 1,
        skip_reduction: bool = False,
        auxiliary: bool = False,
        dropout: float = 0.0,
        keep: float = 1.0,
        keep_by_depth: bool = True,
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        if stem not in STEMS:
            raise ValueError(f"stem={stem!r}: expected one of {', '.join(STEMS)}")
        if (filters is None) == (penultimate is None):
            raise ValueError(f"filters={filters}, penultimate={penultimate}: expected one of them")
        if penultimate is not None:
            filters, rest = divmod(penultimate, 4 * genotype.normal.multiple)
            if rest or not filters:
                multiple = 4 * genotype.normal.multiple
                raise ValueError(f"penultimate={penultimate}: expected a multiple of {multiple} for this genotype")
        assert filters is not None
        if stem == "imagenet" and filters % 4:
            raise ValueError(f"filters={filters}: the ImageNet stem needs a multiple of 4")
        if not 0 < keep <= 1:
            raise ValueError(f"keep={keep}: expected a probability above 0, at most 1")

        def norm(channels: int) -> nn.Module:
            return nn.BatchNorm2d(channels, eps=bn_eps, momentum=bn_momentum)

        self.genotype, self.repeats, self.filters, self.shrink = genotype, repeats, filters, shrink
        self.keep, self.keep_by_depth, self.progress = keep, keep_by_depth, 0.0
        self.shared_masks = True  # several processes share the batch; off for a network that one of them trains alone
        width = 3 * filters if stem_width is None else stem_width
        side = math.ceil(input_size / shrink) if stem == "cifar" else (input_size // shrink - 3) // 2 + 1
        options = {"padding": 1} if stem == "cifar" else {"stride": 2}
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, bias=False, **options), norm(width))  # type: ignore[arg-type]
        kinds = [("R", filters // 4), ("R", filters // 2)] if stem == "imagenet" else []
        for stage in range(3):
            kinds += [("R", filters * 2**stage)] * bool(stage) + [("N", filters * 2**stage)] * repeats
        first = len(kinds) - 3 * repeats - 2  # of the cells behind the stem
        self.auxiliary_at = first + 2 * repeats  # the last normal cell before the second reduction
        self.cells = nn.ModuleList()
        droppable: list[int] = []
        self.wiring: list[tuple[int, ...]] = []  # of each cell: which outputs it reads; -1 is the stem
        made: dict[int, tuple[list[int], int]] = {-1: ([width], side)}  # output -> channels of its states, side
        for number, (kind, f) in enumerate(kinds):
            graph = genotype.normal if kind == "N" else genotype.reduction
            previous = number - 2
            if skip_reduction and kind == "N" and number > first and kinds[number - 1][0] == "R":
                previous = number - 3
            lone = number == 0
            if graph.merged:
                wires = (number - 1,) if lone else (number - 1, previous)
                sources = [(made[w][0][0], made[w][1]) for w in wires]
            else:
                wires = (number - 1,)
                sources = [(c, made[number - 1][1]) for c in made[number - 1][0]]
            sources += [sources[-1]] * (graph.inputs - len(sources))
            cell = Cell(graph, sources, f, 2 if kind == "R" else 1, norm, bare=1 if lone and graph.merged else None)
            self.cells.append(cell)
            droppable.append(len(cell.droppable))
            self.wiring.append(wires)
            made[number] = ([sum(cell.channels)] if graph.merged else cell.channels, cell.side)
        self.penultimate = sum(made[len(kinds) - 1][0])
        at = made[self.auxiliary_at]
        self.auxiliary = AuxiliaryHead(sum(at[0]), at[1], classes, norm) if auxiliary else None
        self.dropout, self.fc = nn.Dropout(dropout), nn.Linear(self.penultimate, classes)
        ends = list(accumulate(droppable, initial=0))
        self.bounds = list(pairwise(ends))  # of each cell's paths in `masks`
        self.cell_of_path = [c for c, n in enumerate(droppable) for _ in range(n)]
        self.initialise()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # faster on CPUs, and no slower on GPUs

    def initialise(self) -> None:
        """Truncated normal of variance 2 / fan_out as TensorFlow counts it: k k outputs, k k for a depthwise kernel."""
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                fan_out = part.weight[0, 0].numel() if isinstance(part, nn.Conv2d) else 1
                fan_out *= part.weight.shape[0] if getattr(part, "groups", 1) == 1 else 1
                std = math.sqrt(2 / fan_out) / TRUNCATED_STD
                nn.init.trunc_normal_(part.weight, std=std, a=-2 * std, b=2 * std)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def masks(self, batch: int, device: torch.device) -> Tensor | None:
        """(all droppable paths, B, 1, 1, 1): 0, or 1 / p so that the mean stays; None when nothing is dropped.

        Drawn for the global batch and cut, so that several processes drop what one would.
        """
        if not self.training or self.keep == 1 or self.progress == 0:
            return None
        n = len(self.cells)
        each = [keep_probability(c, n, self.keep, self.progress, self.keep_by_depth) for c in range(n)]
        p = torch.tensor([each[c] for c in self.cell_of_path], device=device)
        total, start = batch, 0
        if self.shared_masks and world_size() > 1:
            sizes = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(world_size())]
            dist.all_gather(sizes, torch.tensor([batch], device=device))
            total, start = int(sum(sizes)), int(sum(sizes[: dist.get_rank()]))
        kept = torch.rand(len(p), total, device=device)[:, start : start + batch] < p[:, None]
        return (kept / p[:, None]).view(len(p), batch, 1, 1, 1)

    def outputs(self, x: Tensor) -> list[list[State]]:
        """What each cell puts out: one state if cells are merged. (B, C, S, S) -> per cell, states (B, c, s, s)."""
        if self.shrink > 1:
            x = F.avg_pool2d(x, self.shrink, ceil_mode=True)
        masks = self.masks(len(x), x.device)
        stem = [State(self.stem(x.contiguous(memory_format=torch.channels_last)))]
        found: list[list[State]] = []
        for cell, wires, (low, high) in zip(self.cells, self.wiring, self.bounds, strict=True):
            inputs = [state for w in wires for state in (stem if w < 0 else found[w])]
            inputs += inputs[-1:] * (cell.graph.inputs - len(inputs))  # type: ignore[union-attr, operator]
            found.append(cell(inputs, None if masks is None else masks[low:high]))
        return found

    def head(self, last: Sequence[State]) -> Tensor:
        pooled = [state.relu.mean((2, 3)) for state in last]
        return self.fc(self.dropout(torch.cat(pooled, 1) if len(pooled) > 1 else pooled[0]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, S, S) -> logits (B, classes)."""
        return self.head(self.outputs(x)[-1])

    def with_auxiliary(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits of the network and of the auxiliary head, where there is one. For training."""
        found = self.outputs(x)
        if self.auxiliary is None:
            return self.head(found[-1]), None
        states = found[self.auxiliary_at]
        middle = states[0] if len(states) == 1 else State(torch.cat([state.raw for state in states], 1))
        return self.head(found[-1]), self.auxiliary(middle)
