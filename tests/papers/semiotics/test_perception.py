"""Iterations whose limits are known: contractions, cycles, projections, two persons by turns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.semiotics.networks import Autoencoder
from modules.semiotics.perception import Perception, communicate, repeat, spectral_radius

EXACT = Perception(iterations=200, tolerance=1e-7)


def scalar(x: float) -> Tensor:
    return torch.tensor([[x]], dtype=torch.float64)


def halve(x: Tensor) -> Tensor:
    return 0.5 * x + 0.25


def test_a_scalar_contraction_takes_its_known_steps() -> None:
    """x_t = 1/2 + 2^-t (x_0 - 1/2)."""
    states = repeat(halve, scalar(1.0), 3)
    assert states.flatten().tolist() == [1.0, 0.75, 0.625, 0.5625]
    assert float(EXACT(halve, scalar(1.0)).images) == pytest.approx(0.5, abs=1e-6)


def test_a_linear_contraction_forgets_where_it_began() -> None:
    """Pi(x) = (I - W)^-1 b for every x where the spectral radius of W is below 1."""
    torch.manual_seed(1)
    w = torch.randn(6, 6, dtype=torch.float64)
    w = 0.8 * w / torch.linalg.eigvals(w).abs().max()
    b = torch.randn(6, dtype=torch.float64)
    limit = torch.linalg.solve(torch.eye(6, dtype=torch.float64) - w, b)
    perceived = EXACT(lambda x: x @ w.T + b, torch.randn(20, 6, dtype=torch.float64))
    assert torch.allclose(perceived.images, limit.expand(20, 6), atol=1e-5)
    assert perceived.period.tolist() == [1] * 20


def test_a_reflection_is_a_cycle_of_two_and_one_fixed_point() -> None:
    x = torch.tensor([[0.2], [0.5], [0.9]])
    perceived = Perception()(lambda x: 1 - x, x)
    assert perceived.period.tolist() == [2, 1, 2]
    assert perceived.steps.tolist() == [1, 0, 1]
    assert perceived.images.flatten().tolist() == pytest.approx([0.8, 0.5, 0.1])  # the members are x and 1 - x


@pytest.mark.parametrize("period", [3, 8])
def test_a_rotation_returns_after_its_period(period: int) -> None:
    def turn(x: Tensor) -> Tensor:
        return x.roll(1, -1)

    x = torch.eye(period)[:1]
    assert Perception()(turn, x).period.tolist() == [period]
    assert Perception(memory=period - 1)(turn, x).period.tolist() == [0]


def test_a_projection_settles_after_one_step() -> None:
    q, _ = torch.linalg.qr(torch.randn(8, 3, dtype=torch.float64))
    x = torch.randn(5, 8, dtype=torch.float64)
    perceived = EXACT(lambda x: x @ q @ q.T, x)
    assert torch.allclose(perceived.images, x @ q @ q.T)
    assert perceived.steps.tolist() == [1] * 5
    assert perceived.period.tolist() == [1] * 5


def test_a_fixed_number_of_iterations_is_exactly_that() -> None:
    x = torch.randn(4, 1, 5, 5)
    see = Autoencoder(25, 16)
    for steps in (0, 1, 3):
        perceived = Perception(iterations=steps, tolerance=0.0)(see, x)
        assert torch.equal(perceived.images, repeat(see, x, steps)[-1])
        assert perceived.steps.tolist() == [steps] * 4
        assert perceived.period.tolist() == [0] * 4


def test_rows_settle_each_at_its_own_time_as_they_would_alone() -> None:
    def see(x: Tensor) -> Tensor:
        rate = (x[:, 1:] > 0).to(x)  # the second number says how fast the first one falls
        return torch.stack([x[:, 0] * (0.1 + 0.6 * rate[:, 0]), x[:, 1]], 1)

    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [0.0, 1.0]])
    jointly = Perception()(see, x)
    alone = [Perception()(see, row[None]) for row in x]
    assert torch.equal(jointly.images, torch.cat([p.images for p in alone]))
    assert torch.equal(jointly.steps, torch.cat([p.steps for p in alone]))
    assert len(set(jointly.steps.tolist())) == 3


def test_options_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="memory=0"):
        Perception(memory=0)
    with pytest.raises(ValueError, match="iterations=-1"):
        Perception(iterations=-1)


def test_two_contractions_by_turns_end_in_the_orbit_of_a_third_and_a_sixth() -> None:
    said, answers = communicate(halve, lambda x: 0.5 * x, scalar(0.9), (1, 1), EXACT)
    assert float(said) == pytest.approx(1 / 3, abs=1e-6)
    assert float(answers.images) == pytest.approx(1 / 6, abs=1e-6)
    assert answers.period.tolist() == [1]


def test_a_person_who_thinks_on_for_long_says_what_it_would_have_said_alone() -> None:
    """With many internal iterations each turn ends in the person's own attractor: 1/2 and 0."""
    said, answers = communicate(halve, lambda x: 0.5 * x, scalar(0.9), (60, 60), EXACT)
    assert float(said) == pytest.approx(0.5, abs=1e-6)
    assert float(answers.images) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("radius", "attracts"), [(0.9, True), (1.1, False)])
def test_a_fixed_point_attracts_if_the_radius_is_below_one(radius: float, attracts: bool) -> None:
    torch.manual_seed(2)
    w = torch.randn(4, 4)
    w = radius * w / torch.linalg.eigvals(w).abs().max()
    centre = torch.rand(1, 1, 2, 2)

    def see(x: Tensor) -> Tensor:
        return centre + ((x - centre).flatten(1) @ w.T).view_as(x)

    assert float(spectral_radius(see, centre[0])) == pytest.approx(radius, abs=1e-5)
    neighbour = centre + 1e-3 * torch.randn(1, 1, 2, 2)
    end = repeat(see, neighbour, 200)[-1]
    assert (float((end - centre).norm()) < 1e-4) == attracts


def test_the_radius_is_that_of_another_library_functions_jacobian() -> None:
    see = Autoencoder(9, 12, hidden=3)
    image = torch.rand(1, 3, 3)
    jacobian = torch.autograd.functional.jacobian(lambda x: see(x.view(1, 1, 3, 3)).flatten(), image.flatten())
    expected = float(torch.linalg.eigvals(jacobian).abs().max())
    assert float(spectral_radius(see, image).detach()) == pytest.approx(expected, rel=1e-4)


def test_half_precision_does_not_reach_what_is_perceived() -> None:
    """States closer than bf16 can tell: iterates, settled images and eigenvalues are those of fp32."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 4)
    with torch.no_grad():
        layer.weight.mul_(0.5)
        x = torch.randn(5, 4)
        perception = Perception(iterations=60, tolerance=1e-4)
        expected = perception(layer, x), repeat(layer, x, 3), communicate(layer, layer, x, (2, 1), perception)[0]
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
            actual = perception(layer, x), repeat(layer, x, 3), communicate(layer, layer, x, (2, 1), perception)[0]
    for ours, theirs in zip(actual[0], expected[0], strict=True):
        assert torch.equal(ours, theirs)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(actual[1:], expected[1:], strict=True))
    with torch.autocast("cpu", torch.bfloat16):
        radius = spectral_radius(layer, x[0])
    assert float(radius) == pytest.approx(
        float(torch.linalg.eigvals(layer.weight.detach().double()).abs().max()), rel=1e-4
    )
