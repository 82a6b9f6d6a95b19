"""The losses of NAPA-VQ against hand-computed values, a plain loop and gradient facts."""

from __future__ import annotations

import math

import pytest
import torch

from modules.napa_vq.graph import grow_edges
from modules.napa_vq.losses import classification_loss, distances, distillation_loss, neighbour_loss
from tests.papers.napa_vq.helpers import loop_neighbour_loss, symmetric

THREE = torch.tensor([[0.0, 0], [1, 0], [0, 2]])  # coding vectors


def test_first_call_on_three_vectors_by_hand() -> None:
    """Label 2 has no neighbour yet: the winner is vector 0 and only its row has grown."""
    v, x = THREE.clone().requires_grad_(), torch.tensor([[0.5, 0.0]])
    d = distances(x, v)
    edges = grow_edges(torch.eye(3), d, 15)
    loss = neighbour_loss(d, torch.tensor([2]), edges)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(4.25)
    assert v.grad is not None
    assert torch.allclose(v.grad, torch.tensor([[0.0, 0], [0, 0], [-1, 4]]))
    assert torch.equal(symmetric(edges), torch.tensor([[1, 0.5, 0.5], [0.5, 1, 0], [0.5, 0, 1]]))


def test_a_sample_nearer_to_its_own_vector_costs_nothing() -> None:
    d = distances(torch.tensor([[0.5, 0.1]]), THREE)
    edges = grow_edges(torch.eye(3), d, 15)
    assert float(neighbour_loss(d, torch.tensor([0]), edges)) == 0
    squared = d.square()[0]
    w = (-0.001 * squared[1:]).exp()
    assert float(squared[0]) == pytest.approx(0.26)
    assert float((w * squared[1:]).sum() / w.sum()) == pytest.approx(2.06, abs=0.01)


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_graph_equal_a_plain_loop(seed: int) -> None:
    torch.manual_seed(seed)
    v, edges, theirs = torch.randn(12, 3), torch.eye(12), torch.eye(12)
    for _ in range(4):
        x, y = torch.randn(20, 3), torch.randint(12, (20,))
        d = distances(x, v)
        after = grow_edges(edges, d, 4)
        loss, theirs = loop_neighbour_loss(theirs, x, v, y, 4)
        edges = symmetric(after)
        assert float(neighbour_loss(d, y, after)) == pytest.approx(loss, rel=1e-5)
        assert torch.allclose(edges, theirs, atol=1e-6)


def test_neighbours_are_pushed_with_weights_that_carry_no_gradient() -> None:
    torch.manual_seed(0)
    x, v = torch.randn(6, 3), (0.3 * torch.randn(5, 3)).requires_grad_()
    y, edges = torch.zeros(6, dtype=torch.long), torch.ones(5, 5)
    neighbour_loss(distances(x, v), y, edges).backward()
    squared = distances(x, v.detach()).square()
    w = (-0.001 * squared[:, 1:]).exp()
    w = w / w.sum(1, keepdim=True)
    active = (squared[:, 0] > (w * squared[:, 1:]).sum(1)).float()[:, None]
    assert float(active.sum()) > 0
    by_hand = torch.zeros(5, 3)
    by_hand[0] = (active * 2 * (v.detach()[0] - x)).mean(0)
    for n in range(1, 5):
        by_hand[n] = -(active * w[:, n - 1 : n] * 2 * (v.detach()[n] - x)).mean(0)
    assert v.grad is not None
    assert torch.allclose(v.grad, by_hand, atol=1e-6)


def test_without_edges_the_loss_is_pure_attraction() -> None:
    x, v, y = torch.randn(7, 4), torch.randn(5, 4), torch.randint(5, (7,))
    loss = neighbour_loss(distances(x, v), y, torch.eye(5))
    assert float(loss) == pytest.approx(float((x - v[y]).square().sum(1).mean()), rel=1e-5)


def test_classification_by_plain_distance_at_temperature_a_tenth() -> None:
    v = torch.tensor([[1.0], [1.1]])
    probabilities = (-distances(torch.zeros(1, 1), v) / 0.1).softmax(-1)
    assert torch.allclose(probabilities, torch.tensor([[0.731, 0.269]]), atol=5e-4)
    loss = classification_loss(distances(torch.zeros(1, 1), v), torch.tensor([1]), 0.1)
    assert float(loss) == pytest.approx(-math.log(0.269), abs=2e-3)


def test_distillation_is_a_norm() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(8, 5, requires_grad=True), torch.randn(8, 5)
    loss = distillation_loss(a, b)
    (gradient,) = torch.autograd.grad(loss, a)
    (theirs,) = torch.autograd.grad(torch.dist(a, b), a)
    assert float(loss.detach()) == pytest.approx(float(torch.dist(a, b).detach()), rel=1e-6)
    assert torch.allclose(gradient, theirs, atol=1e-6)
    twice = distillation_loss(torch.cat([a, a]), torch.cat([b, b]))
    assert float((twice / loss).detach()) == pytest.approx(math.sqrt(2), rel=1e-6)
    same = distillation_loss(a, a.detach())
    (nothing,) = torch.autograd.grad(same, a)
    assert float(same.detach()) == 0
    assert torch.equal(nothing, torch.zeros(8, 5))
