"""Losses by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.st_protopnet.losses import BranchLoss, between_classes, cluster_and_separation, orthogonality

A = [[1.0, 0.0], [0.0, 1.0]]
B = [[0.6, 0.8], [-1.0, 0.0]]


def test_closeness_and_discrimination_by_hand() -> None:
    smallest, largest = between_classes(torch.tensor([A, B]))
    assert float(smallest) == -1.0
    assert float(largest) == pytest.approx(0.8)
    terms = BranchLoss().of_prototypes(torch.tensor([A, B]))
    assert float(terms["closeness"]) == 1.0
    assert float(terms["discrimination"]) == pytest.approx(0.8)


@pytest.mark.parametrize(("prototypes", "expected"), [(A, 0.0), (B, 1.2), ([[1.0, 0.0]] * 5, 20.0)])
def test_orthogonality_is_entrywise_l1(prototypes: list[list[float]], expected: float) -> None:
    assert float(orthogonality(torch.tensor([prototypes]))) == pytest.approx(expected)


def test_classes_are_added_up_in_orthogonality() -> None:
    assert float(orthogonality(torch.tensor([B, B, A]))) == pytest.approx(2.4)


def test_each_loss_moves_its_own_pair() -> None:
    """Closeness draws the least similar prototypes of two classes together, discrimination drives the others apart."""
    vectors = torch.tensor([A, B], requires_grad=True)
    smallest, largest = between_classes(vectors)
    (low,) = torch.autograd.grad(-smallest, vectors, retain_graph=True)
    assert low.abs().sum(2).tolist() == [[1.0, 0.0], [0.0, 1.0]]  # (1, 0) and (-1, 0)
    (high,) = torch.autograd.grad(largest, vectors)
    assert (high.abs().sum(2) > 0).tolist() == [[False, True], [True, False]]  # (0, 1) and (.6, .8)


def test_losses_of_random_prototypes_of_published_size() -> None:
    torch.manual_seed(0)
    raw = torch.rand(200, 5, 64)
    assert float(orthogonality(raw)) == pytest.approx(84_400, rel=0.02)
    unit = F.normalize(raw, dim=2)
    assert float(orthogonality(unit)) == pytest.approx(3008, rel=0.02)
    smallest, largest = between_classes(unit)
    assert float(largest) == pytest.approx(0.823, abs=0.01)
    assert float(smallest) == pytest.approx(0.674, abs=0.01)


def separation(values: list[float], y: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    cosines = torch.tensor([values], requires_grad=True)
    cluster, other = cluster_and_separation(cosines, torch.tensor([0, 0, 1, 1]), torch.tensor([y]))
    return cosines, cluster, other


def test_cluster_and_separation_by_hand() -> None:
    _, cluster, other = separation([0.2, 0.7, -0.5, 0.4])
    assert cluster.item() == pytest.approx(-0.7)
    assert other.item() == pytest.approx(0.4)


def test_no_gradient_where_all_cosines_are_negative() -> None:
    cosines, cluster, other = separation([-0.2, -0.1, -0.3, -0.4])
    assert float(cluster) == float(other) == 0.0
    (cluster + other).backward()
    assert cosines.grad is not None
    assert not cosines.grad.any()


def test_the_total_weighs_each_term() -> None:
    terms = {"ce": torch.tensor(2.0), "cluster": torch.tensor(-0.5), "separation": torch.tensor(0.5)}
    terms |= BranchLoss().of_prototypes(torch.tensor([B, B])) | {"l1": torch.tensor(100.0)}
    total = BranchLoss(separation=0.48, closeness=1.0).total(terms)
    assert float(total) == pytest.approx(2 - 0.4 + 0.24 + 2.4e-3 + 0.6 + 0.01)
    assert math.isclose(float(BranchLoss(orthogonality=0, l1=0).total(terms)), 2 - 0.4 + 0.04, rel_tol=1e-6)
