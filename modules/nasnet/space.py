"""The space of cells that a search chooses from (Zoph et al., arXiv 1707.07012, appendix A)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from modules.nasnet.cells import Block, Genotype, Graph
from modules.nasnet.operations import OPERATIONS


@dataclass(frozen=True)
class Space:
    """Every choice of a search in the controller's order: per block two states, two operations, how to combine.

    Attributes:
        blocks: B.
        operations, combinations: what can be chosen.
        reduction: blocks (first, second, first_op, second_op, combine) of a reduction cell that is not searched; None
            searches it too, after the normal cell.
        inputs: states a cell reads: 2, or 4 in NASNet-B.
        merged: outputs are concatenated (NASNet-A and C).
    """

    blocks: int = 5
    operations: Sequence[str] = OPERATIONS
    combinations: Sequence[str] = ("add", "concat")
    reduction: Sequence[Sequence[Any]] | None = None
    inputs: int = 2
    merged: bool = True

    @property
    def sizes(self) -> list[int]:
        """How many options each choice has."""
        ops = len(self.operations)
        ways = len(self.combinations)
        cell = [n for b in range(self.blocks) for n in (self.inputs + b, self.inputs + b, ops, ops, ways)]
        return cell * (2 if self.reduction is None else 1)

    @property
    def count(self) -> int:
        """How many sequences of choices there are; several may describe one architecture."""
        return math.prod(self.sizes)

    def decode(self, actions: Sequence[int]) -> Genotype:
        """The architecture of one sequence of choices."""
        blocks = [
            Block(first, second, self.operations[op1], self.operations[op2], self.combinations[way])
            for first, second, op1, op2, way in zip(*[iter(actions)] * 5, strict=True)
        ]
        fixed = [Block(*block) for block in self.reduction] if self.reduction is not None else blocks[self.blocks :]
        normal = Graph.of(blocks[: self.blocks], self.inputs, self.merged)
        return Genotype(normal, Graph.of(fixed, self.inputs, self.merged))

    def number(self, actions: Tensor) -> Tensor:
        """Place of sequences (..., T) in the list of all, below `count`; of spaces with fewer than 2^63."""
        number = torch.zeros_like(actions[..., 0])
        for t, size in enumerate(self.sizes):
            number = number * size + actions[..., t]
        return number

    def canonical(self, actions: Tensor) -> Tensor:
        """One form (..., T) for sequences (..., T) of the same network: each block's smaller (state, operation) first.

        Addition commutes, and the other order of a concatenation permutes channels, that is, the next weights. The same
        cell written with its blocks in another order keeps its own form.
        """
        blocks = actions.unflatten(-1, (-1, 5))  # (..., blocks, 5)
        first, second, op1, op2, way = blocks.unbind(-1)

        exchange = (first > second) | ((first == second) & (op1 > op2))
        exchanged = torch.stack([second, first, op2, op1, way], -1)
        return torch.where(exchange[..., None], exchanged, blocks).flatten(-2)

    def architectures(self) -> Tensor:
        """The canonical forms (M, T) in the order of their numbers; of spaces that can be enumerated."""
        everything = torch.cartesian_prod(*(torch.arange(size) for size in self.sizes))  # (count, T)
        return self.canonical(everything).unique(dim=0)

    def place(self, actions: Tensor) -> Tensor:
        """Rows of `architectures` that sequences (..., T) stand for."""
        numbers = self.number(self.architectures().to(actions.device))
        return torch.searchsorted(numbers, self.number(self.canonical(actions)))

    def uniform(self, *shape: int, device: torch.device | None = None) -> Tensor:
        """Random sequences (*shape, T), every choice uniform."""
        return torch.stack([torch.randint(size, shape, device=device) for size in self.sizes], -1)
