"""The certified radius: by hand, in its limit cases, and against attacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.common.attacks import l2_pgd
from modules.robust_pbn.certificates import (
    SOUND,
    coefficients,
    largest_factor,
    lvq_radius,
    radius_of_metric,
    radius_of_squared_metric,
)
from modules.robust_pbn.evaluation import INSIDE
from modules.robust_pbn.heads import NormalisedRBF, OriginalCBC, StableCBC, agreement
from modules.robust_pbn.networks import Components, DetectionNetwork, PrototypeNetwork, TangentComponents

FIRST = torch.tensor([[True, False]])


def test_radius_by_hand(hand: tuple[Tensor, Tensor, Tensor]) -> None:
    factor = largest_factor(*hand, FIRST)
    assert float(radius_of_metric(factor, torch.tensor([1.0]))) == pytest.approx(0.392733, abs=1e-6)
    assert float(radius_of_metric(factor, torch.tensor([2.0, 5.0]))) == pytest.approx(0.785467, abs=1e-6)


def test_the_smallest_sigma_counts(hand: tuple[Tensor, Tensor, Tensor]) -> None:
    factor = largest_factor(*hand, FIRST)
    assert float(radius_of_metric(factor, torch.tensor([1.0, 100.0]))) == pytest.approx(0.392733, abs=1e-6)


def test_a_wrong_image_has_a_negative_radius_that_can_grow(hand: tuple[Tensor, Tensor, Tensor]) -> None:
    d, positive, negative = hand
    positive = positive.clone().requires_grad_()
    radius = radius_of_metric(largest_factor(d, positive, negative, ~FIRST), torch.ones(1))
    assert float(radius.detach()) < 0
    (gradient,) = torch.autograd.grad(radius.sum(), positive)
    assert bool((gradient[:, 1] > 0).all())
    assert bool((gradient[:, 0] < 0).all())


def test_at_factor_one_the_parabola_is_the_lead() -> None:
    d = torch.rand(9, 6)
    positive, negative = StableCBC(6, 4).reasoning()
    a, b, c = coefficients(d, positive, negative)
    p = agreement(d, positive, negative)
    assert torch.allclose(a + b + c, p[:, :, None] - p[:, None, :], atol=1e-6)
    assert torch.allclose(c, -a.transpose(1, 2))
    assert float(a.detach().max()) <= 0


def test_without_negative_reasoning_the_radius_is_half_a_logarithm() -> None:
    d = torch.rand(50, 6)
    positive, negative = NormalisedRBF(6, 2).reasoning()
    p = agreement(d, positive, negative)
    factor = largest_factor(d, positive, negative, FIRST.expand(50, 2))
    expected = 3 / 2 * (p[:, 0] / p[:, 1]).log()
    assert torch.allclose(radius_of_metric(factor, torch.tensor([3.0])), expected, atol=1e-5)


def test_a_tie_has_no_radius(hand: tuple[Tensor, Tensor, Tensor]) -> None:
    d, positive, negative = hand
    positive, negative = positive[:, [0, 0]], negative[:, [0, 0]]
    assert float(largest_factor(d, positive, negative, FIRST)) == pytest.approx(1, abs=1e-6)


def test_of_several_concepts_the_best_right_one_counts_against_each_wrong_one() -> None:
    d = torch.rand(20, 6, dtype=torch.double)
    positive, negative = (r.detach().double() for r in StableCBC(6, 4).reasoning())
    right = torch.tensor([[True, True, False, False]]).expand(20, 4)
    expected = []
    for row in d:
        worst = math.inf
        for j in (2, 3):
            best = -math.inf
            for i in (0, 1):
                pair = [i, j]
                factor = largest_factor(row[None], positive[:, pair], negative[:, pair], FIRST, SOUND)
                best = max(best, float(factor))
            worst = min(worst, best)
        expected.append(worst)
    actual = largest_factor(d, positive, negative, right, SOUND)
    assert torch.allclose(actual, torch.tensor(expected, dtype=torch.double))


def test_squared_distances_certify_by_a_quadratic() -> None:
    """3 eps^2 + 2 beta eps = sigma ln z; a share of the logarithm where the class is wrong."""
    factor = torch.tensor([2.0, 1.0, 0.5])
    distances = torch.tensor([[1.0, 3.0], [1.0, 3.0], [1.0, 3.0]])
    radius = radius_of_squared_metric(factor, torch.tensor([10.0, 4.0]), distances, negative_weight=0.09)
    length = 4 * math.log(2)
    eps = float(radius[0])
    assert 3 * eps**2 + 2 * 3 * eps == pytest.approx(length, rel=1e-5)
    assert float(radius[1]) == 0
    assert float(radius[2]) == pytest.approx(-0.09 * length, rel=1e-5)


def test_lvq_radius_by_hand() -> None:
    distances = torch.tensor([[1.0, 2.0, 4.0, 3.0]])
    right = torch.tensor([[True, True, False, False]])
    assert float(lvq_radius(distances, right)) == 1.0
    assert float(lvq_radius(distances, ~right)) == -1.0
    several = torch.cat([distances, 3 * distances])  # each image has distances of its own
    assert lvq_radius(several, right.expand(2, 4)).tolist() == [1.0, 3.0]


def attacked(network: Any, count: int, restarts: int, steps: int = 20) -> tuple[int, int]:
    """(images with a radius, those whose class an attack of 0.999 of it changed); any pixels, not only [0, 1]."""
    x = torch.rand(count, 5)
    with torch.no_grad():
        y = network.read(x).class_scores().argmax(1)
    radius = network.certify(x, y)

    def lead(p: Tensor) -> Tensor:
        scores = network.read(p).class_scores()
        own = scores.gather(1, y[:, None]).squeeze(1)
        return scores.scatter(1, y[:, None], -torch.inf).amax(1) - own

    _, best = l2_pgd(lead, x, INSIDE * radius, steps, restarts=restarts, low=-9, high=9)
    return int((radius > 0).sum()), int(((radius > 0) & (best > 0)).sum())


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("head", [StableCBC, NormalisedRBF, OriginalCBC])
def test_no_attack_within_a_certificate_succeeds(small: Callable[..., Any], head: Any, squared: bool) -> None:
    """12 random models in 5 dimensions, 50 images each, 16 restarts."""
    certified = 0
    for _ in range(12):
        positive, broken = attacked(small(head, squared=squared), 50, restarts=16, steps=5)
        certified += positive
        assert not broken
    assert certified > 500


def test_an_attack_of_several_certificates_does_succeed(small: Callable[..., Any]) -> None:
    """The attack is able to find something: beyond the radius it often does."""
    network = small(StableCBC)
    x = torch.rand(200, 5)
    with torch.no_grad():
        y = network.read(x).class_scores().argmax(1)

    def lead(p: Tensor) -> Tensor:
        scores = network.read(p).class_scores()
        return scores.scatter(1, y[:, None], -torch.inf).amax(1) - scores.gather(1, y[:, None]).squeeze(1)

    _, best = l2_pgd(lead, x, 4 * network.certify(x, y), low=-9, high=9)
    assert int((best > 0).sum()) > 20


@pytest.mark.parametrize("per_class", [1, 2])
def test_prototypes_and_subspaces_keep_their_certificates(small: Callable[..., Any], per_class: int) -> None:
    for _ in range(5):
        tangents = TangentComponents(6, 5, dimensions=2)
        assert not attacked(small(components=tangents, per_class=per_class), 20, restarts=4)[1]
        assert not attacked(PrototypeNetwork(Components(6, 5), 3), 20, restarts=4)[1]


def test_detections_below_the_floor_certify_too_little_instead_of_too_much() -> None:
    """Far from all components detections are 1e-12. The released form of the root then certifies a small lead as a
    large radius; here the loss's floor makes the radius smaller, and what is measured, in doubles, is exact."""
    positive = torch.tensor([[0.6, 0.4], [0.4, 0.6]])
    negative = torch.zeros(2, 2)
    d = torch.tensor([[2e-12, 1e-12]])
    p = agreement(d.double(), positive.double(), negative.double())
    exact = 0.5 * float((p[0, 0] / p[0, 1]).log())

    a, b, c = (float(value[0, 0, 1]) for value in coefficients(d, positive, negative))
    released = math.log((-b - max(b * b - 4 * a * c, 1e-8) ** 0.5) / (2 * min(a, -1e-8)))
    floored = float(largest_factor(d, positive, negative, FIRST).log())
    sound = float(largest_factor(d.double(), positive.double(), negative.double(), FIRST, SOUND).log())
    assert sound == pytest.approx(exact, rel=1e-6)
    assert released > 100 * exact
    assert floored < 0 < exact


def test_roots_lose_nothing_to_cancellation() -> None:
    """A wrong concept with much more negative reasoning: b is large and negative, a c is small."""
    d = torch.full((1, 2), 1e-3, dtype=torch.double)
    positive = torch.tensor([[0.5, 0.05], [0.5, 0.05]], dtype=torch.double)
    negative = torch.tensor([[0.0, 0.45], [0.0, 0.45]], dtype=torch.double)
    a, b, c = (float(value[0, 0, 1]) for value in coefficients(d, positive, negative))
    z = float(largest_factor(d, positive, negative, FIRST, SOUND))
    assert abs(a * z * z + b * z + c) < 1e-15


@pytest.mark.parametrize("head", [StableCBC, NormalisedRBF])
def test_radii_do_not_depend_on_the_precision_of_the_weights(small: Callable[..., DetectionNetwork], head: Any) -> None:
    network = small(head)
    x, y = torch.rand(30, 5), torch.randint(3, (30,))
    with torch.no_grad():
        loss_radius = network.read(x).radius(network.right(y)).clamp(min=0)
    assert torch.allclose(network.certify(x, y), loss_radius, atol=1e-3)
    assert network.components.points.dtype == torch.float32
