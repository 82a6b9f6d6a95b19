"""A searched cell: what it computes, as a graph, and the layer that computes it (Zoph et al., arXiv 1707.07012).

A cell reads its inputs (h_i and h_{i-1} in most spaces), makes B new hidden states, each from two earlier ones by an
operation on either and a way to combine them, and puts out the states that no block used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modules.nasnet.operations import (
    OPERATIONS,
    ConvNorm,
    FactorizedReduction,
    Norm,
    ReluConvNorm,
    State,
    Unchanged,
    operation,
)

COMBINATIONS = ("add", "concat", "add_layer_norm", "add_instance_norm")


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
        for b, block in enumerate(self.blocks):
            for value, valid in (
                (block.first_op, OPERATIONS),
                (block.second_op, OPERATIONS),
                (block.combine, COMBINATIONS),
            ):
                if value not in valid:
                    raise ValueError(f"block {b}: {value!r}: expected one of {', '.join(valid)}")
            if not all(0 <= state < self.inputs + b for state in (block.first, block.second)):
                raise ValueError(f"block {b} reads a state that does not exist yet: {block}")

        states = self.inputs + len(self.blocks)
        if not self.outputs or not all(0 <= k < states for k in self.outputs):
            raise ValueError(f"outputs={self.outputs}: expected some of the states 0 to {states - 1}")

    @classmethod
    def of(cls, blocks: Sequence[Block], inputs: int = 2, merged: bool = True) -> Graph:
        """With the states that no block reads as outputs; without merging, with all new states."""
        read = {state for block in blocks for state in (block.first, block.second)}
        states = range(inputs + len(blocks))
        outputs = [k for k in states if k not in read] if merged else list(states)[inputs:]
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
        self.graph = graph
        self.side = math.ceil(sources[0][1] / stride)
        self.channels = [filters * graph.width(k) for k in graph.outputs]

        state_channels = self._make_inputs(sources, filters, norm, bare)
        self._make_blocks(state_channels, filters, stride, norm)
        self._make_outputs(state_channels, filters, stride, norm)

        # paths that may be dropped: every operation's output but those of identities
        names = [name for block in graph.blocks for name in (block.first_op, block.second_op)]
        self.droppable = [path for path, name in enumerate(names) if name != "identity"]
        self.mask_of = {path: row for row, path in enumerate(self.droppable)}

    def _make_inputs(self, sources: Sequence[tuple[int, int]], filters: int, norm: Norm, bare: int | None) -> list[int]:
        """Layers that bring every input to the cell's side and F channels. Returns the channels of each input."""
        side = sources[0][1]
        self.adapt = nn.ModuleList()
        channels = []
        for k, (input_channels, input_side) in enumerate(sources):
            raw = bare is not None and k >= bare
            if not raw and input_side != side:
                self.adapt.append(FactorizedReduction(input_channels, filters, norm))
            elif not raw and (k == 0 or input_channels != filters):
                self.adapt.append(ReluConvNorm(input_channels, filters, 1, norm))
            else:
                self.adapt.append(Unchanged())
            channels.append(input_channels if raw else filters)
        return channels

    def _make_blocks(self, channels: list[int], filters: int, stride: int, norm: Norm) -> None:
        """Two operations and a norm for each block; appends the channels of the states that the blocks make."""
        self.operations = nn.ModuleList()
        self.norms = nn.ModuleList()
        for block in self.graph.blocks:
            for k, name in ((block.first, block.first_op), (block.second, block.second_op)):
                reads_input = k < self.graph.inputs
                self.operations.append(operation(name, channels[k], filters, stride if reads_input else 1, norm))
            channels.append(filters * self.graph.width(len(channels)))

            groups = {"add_layer_norm": 1, "add_instance_norm": filters}.get(block.combine)
            self.norms.append(nn.Identity() if groups is None else nn.GroupNorm(groups, filters))

    def _make_outputs(self, channels: list[int], filters: int, stride: int, norm: Norm) -> None:
        """Layers for inputs that leave the cell unread and do not have the outputs' side or channels."""
        self.leave = nn.ModuleDict()
        for k in self.graph.outputs:
            if k < self.graph.inputs and stride == 2:
                self.leave[str(k)] = FactorizedReduction(channels[k], filters, norm, rectify=False)
            elif k < self.graph.inputs and channels[k] != filters:
                self.leave[str(k)] = ConvNorm(channels[k], filters, norm)

    def forward(self, inputs: Sequence[State], masks: Tensor | None = None) -> list[State]:
        """States in, states out (one, if merged). masks: (droppable paths, B, 1, 1, 1), 0 or 1 / keep probability."""
        states = [State(adapt(x)) for adapt, x in zip(self.adapt, inputs, strict=True)]

        for b, (block, norm) in enumerate(zip(self.graph.blocks, self.norms, strict=True)):
            x = self.path(2 * b, states[block.first], masks)
            y = self.path(2 * b + 1, states[block.second], masks)
            states.append(State(torch.cat([x, y], 1) if block.combine == "concat" else norm(x + y)))

        outputs = [self.leave[str(k)](states[k]) if str(k) in self.leave else states[k].raw for k in self.graph.outputs]
        if not self.graph.merged:
            return [State(x) for x in outputs]
        return [State(torch.cat(outputs, 1) if len(outputs) > 1 else outputs[0])]

    def path(self, path: int, state: State, masks: Tensor | None) -> Tensor:
        """One operation's output, masked if it may be dropped."""
        x = self.operations[path](state)
        if masks is None or path not in self.mask_of:
            return x
        # of x's type: a float32 mask would promote what mixed precision keeps in bf16
        return x * masks[self.mask_of[path]].to(x.dtype)
