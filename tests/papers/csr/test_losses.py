"""Equations 2 and 6 to 9 by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from modules.csr.losses import ContrastiveLoss, concept_similarities, local_vectors


def test_a_local_vector_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)  # (1, 0) and (0, 1) at two positions
    cams = torch.tensor([0.0, math.log(3)]).view(1, 1, 1, 2)
    assert local_vectors(features, cams)[0, 0].tolist() == pytest.approx([0.25, 0.75])


def test_the_softmax_is_of_the_map_as_it_is() -> None:
    """Brought to [0, 1] first, as a third party does, the weights could differ by a factor of e at most."""
    features = torch.eye(2).view(1, 2, 1, 2)
    vector = local_vectors(features, torch.tensor([0.0, 10.0]).view(1, 1, 1, 2))[0, 0]
    assert float(vector[1]) > 0.999


@pytest.mark.parametrize(("concepts", "expected"), [(4, 0.34075), (14, 1.01500)])
def test_loss_of_equal_similarities(concepts: int, expected: float) -> None:
    """ln(1 + (K - 1) e^-2). With the margin missing in the denominator it would be ln K - 2."""
    cosines = torch.full((1, concepts, 3), 0.3)
    loss = ContrastiveLoss()(cosines, torch.tensor([1]))
    assert float(loss) == pytest.approx(expected, abs=1e-5)
    assert float(loss) == pytest.approx(math.log(1 + (concepts - 1) * math.exp(-2)), abs=1e-6)


@pytest.mark.parametrize(
    ("gamma", "similarities", "losses"),
    [(1000.0, (1.0, 0.6), (4.54e-5, 6.0025)), (5.0, (0.99331, 0.59946), (5.14e-5, 5.8797))],
)
def test_a_vector_among_four_prototypes(
    gamma: float, similarities: tuple[float, float], losses: tuple[float, float]
) -> None:
    prototypes = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [-1.0, 0.0]]])
    cosines = (prototypes @ torch.tensor([1.0, 0.0]))[None].double()
    assert concept_similarities(cosines, gamma)[0].tolist() == pytest.approx(similarities, abs=1e-5)
    for label, expected in enumerate(losses):
        loss = ContrastiveLoss(gamma=gamma)(cosines, torch.tensor([label]))
        assert float(loss) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(("gamma", "expected"), [(5, 0.77154), (10, 0.79852), (20, 0.8), (1000, 0.8), (0, 0.5)])
def test_gamma_goes_from_mean_to_largest(gamma: float, expected: float) -> None:
    assert float(concept_similarities(torch.tensor([0.8, 0.2]), gamma)) == pytest.approx(expected, abs=1e-5)


def test_with_one_prototype_gamma_plays_no_part() -> None:
    cosines = torch.rand(5, 3, 1)
    assert torch.equal(concept_similarities(cosines, 5.0), concept_similarities(cosines, 1000.0))


def test_without_margin_it_is_cross_entropy_on_scaled_cosines() -> None:
    cosines = 2 * torch.rand(6, 4, 1) - 1
    y = torch.arange(6) % 4
    assert torch.allclose(ContrastiveLoss(margin=0.0)(cosines, y), F.cross_entropy(20 * cosines[..., 0], y))


def test_the_loss_is_never_negative() -> None:
    cosines = torch.zeros(2, 3, 2)
    cosines[:, 1] = 1.0
    assert 0 <= float(ContrastiveLoss()(cosines, torch.tensor([1, 1]))) < 1e-8
