"""The graph of neighbours against hand-computed edges."""

from __future__ import annotations

import pytest
import torch

from modules.napa_vq.graph import grow_edges
from modules.napa_vq.losses import distances
from tests.papers.napa_vq.helpers import symmetric


def test_edges_on_a_line() -> None:
    line = torch.arange(20.0)[:, None]
    row = symmetric(grow_edges(torch.eye(20), distances(torch.tensor([[0.2]]), line), 15))[0]
    assert torch.equal(row, torch.tensor([1.0, *[0.5] * 14, *[0.0] * 5]))

    edges = torch.eye(20)
    d = distances(torch.full((4, 1), 10.2), line)
    for _ in range(3):
        edges = symmetric(grow_edges(edges, d, 15))
    expected = torch.zeros(20)
    expected[3:18] = 0.875
    expected[10] = 1.0
    assert torch.allclose(edges[10], expected)


def test_edges_that_lose_fade_and_vanish() -> None:
    """Ten wins without an edge bring it to 0.9^10, where it still stands; one more removes it."""
    line = torch.arange(8.0)[:, None]
    edges = torch.eye(8)
    edges[0, 7] = 1.0
    for wins, left in ((5, 0.9**5), (9, 0.9**9), (10, 0.9**10), (11, 0.0)):
        after = grow_edges(edges, distances(torch.zeros(wins, 1), line), 3)
        assert float(after[0, 7]) == pytest.approx(left)
        assert torch.equal(after.diagonal(), torch.ones(8))


def test_ten_losses_one_by_one_leave_an_edge_in_spite_of_rounding() -> None:
    line = torch.arange(8.0)[:, None]
    edges = torch.eye(8)
    edges[0, 7] = 1.0
    for _ in range(10):
        edges = grow_edges(edges, distances(torch.zeros(1, 1), line), 3)
    assert float(edges[0, 7]) == pytest.approx(0.9**10)
    assert float(grow_edges(edges, distances(torch.zeros(1, 1), line), 3)[0, 7]) == 0
