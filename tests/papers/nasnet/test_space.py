"""The space of cells: its size, its numbers, and which sequences are one architecture."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from modules.nasnet import architectures
from modules.nasnet.cells import COMBINATIONS, Block, Genotype, Graph
from modules.nasnet.operations import State
from modules.nasnet.space import Space
from tests.papers.nasnet.helpers import (
    TINY,
    small,
)


def test_size_of_the_space() -> None:
    space = Space()
    assert space.count == (math.factorial(6) ** 2 * 338**5) ** 2
    assert space.count == pytest.approx(5.23e36, rel=1e-3)
    one = math.prod(space.sizes[:25])
    assert one == pytest.approx(2.287e18, rel=1e-3)
    assert len(space.sizes) == 2 * 5 * 5
    assert Space(4, inputs=4, merged=False, combinations=COMBINATIONS).sizes[:5] == [4, 4, 13, 13, 4]


def test_every_number_is_one_sequence() -> None:
    assert TINY.count == 2**5
    sequences = list(product(*(range(size) for size in TINY.sizes)))
    assert TINY.number(torch.tensor(sequences)).tolist() == list(range(32))
    assert TINY.decode([0, 1, 1, 0, 1]).normal == Graph((Block(0, 1, "max3", "identity", "concat"),), (2,))
    assert TINY.decode([0, 0, 1, 0, 0]).normal.outputs == (1, 2)  # h_{i-1} is unused and leaves the cell


def test_a_cell_is_counted_once() -> None:
    """(a, b, p, q) is (b, a, q, p): of n (state, operation) pairs, n (n + 1) / 2 remain, for each combination."""
    mini = Space(1, ["identity", "sep3", "avg3", "max3"], ["add", "concat"], TINY.reduction)
    assert (mini.count, len(mini.architectures())) == (128, 8 * 9 // 2 * 2)
    rows = TINY.architectures()
    assert len(rows) == 4 * 5 // 2 * 2
    assert TINY.place(rows).tolist() == list(range(20))
    assert TINY.number(rows).tolist() == sorted(TINY.number(rows).tolist())
    swapped = rows[:, [1, 0, 3, 2, 4]]
    assert torch.equal(TINY.canonical(swapped), rows)
    assert torch.equal(TINY.place(swapped), torch.arange(20))
    assert TINY.canonical(torch.tensor([0, 0, 1, 0, 1])).tolist() == [0, 0, 0, 1, 1]
    assert TINY.canonical(torch.tensor([1, 0, 0, 1, 0])).tolist() == [0, 1, 1, 0, 0]  # operations go with their states


@pytest.mark.parametrize("way", ["add", "concat"])
def test_exchanged_halves_are_the_same_network(way: str) -> None:
    """With the weights of both halves exchanged, and for concat the next weights' channels."""
    fixed = Graph.of([Block(0, 1, "max3", "avg3")])
    one, other = (
        small(Genotype(Graph.of([block]), fixed)).eval()
        for block in (Block(0, 1, "sep3", "max3", way), Block(1, 0, "max3", "sep3", way))
    )
    cell, exchanged = one.cells[0], other.cells[0]
    halves = {"operations.0.": "operations.1.", "operations.1.": "operations.0."}
    exchanged.load_state_dict({halves.get(k[:13], k[:13]) + k[13:]: v for k, v in cell.state_dict().items()})
    inputs = [State(torch.randn(2, 12, 12, 12)) for _ in range(2)]
    left, right = cell(inputs)[0].raw, exchanged(inputs)[0].raw
    if way == "concat":
        right = torch.cat(right.chunk(2, 1)[::-1], 1)
    assert torch.allclose(left, right, atol=1e-6)


def test_nasnet_a_is_in_the_space() -> None:
    space = Space()
    ops = {name: i for i, name in enumerate(space.operations)}
    actions = [
        choice
        for graph in (architectures.NORMAL_A, architectures.REDUCTION_A)
        for b in graph.blocks
        for choice in (b.first, b.second, ops[b.first_op], ops[b.second_op], 0)
    ]
    genotype = space.decode(actions)
    assert genotype.normal.blocks == architectures.NORMAL_A.blocks
    assert genotype.reduction.blocks == architectures.REDUCTION_A.blocks
