"""The terms of the losses: values by hand, limit cases, and where gradients go."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.mee.losses import (
    Mixing,
    critic_loss,
    disomap_loss,
    dlle_loss,
    generator_loss,
    mix,
    squared_distances,
)


def test_adversarial_terms_by_hand() -> None:
    real, fake = torch.ones(4, 3), torch.full((4, 3), 2.0)
    assert float(critic_loss(real, fake)) == 1.0  # -1 + 2
    assert float(generator_loss(fake)) == -2.0


def test_a_constant_added_to_the_critic_changes_nothing() -> None:
    real, fake = torch.randn(8, 5), torch.randn(8, 5)
    assert float(critic_loss(real + 7, fake + 7)) == pytest.approx(float(critic_loss(real, fake)), abs=1e-5)


def test_mixing_goes_beyond_both_ends() -> None:
    real, fake = torch.full((3, 2, 2), 1.0), torch.zeros(3, 2, 2)
    assert mix(torch.tensor([0.0, 1.0, 2.0]), real, fake)[:, 0, 0].tolist() == [0.0, 1.0, 2.0]
    normal = torch.randn(10_000)
    assert torch.equal(Mixing().weigh(normal), normal)
    uniform = Mixing(alpha="uniform").weigh(normal)
    assert float(uniform.min()) > 0
    assert float(uniform.max()) < 1
    assert torch.allclose(uniform.sort().values, torch.linspace(0, 1, 10_000), atol=0.03)
    with pytest.raises(ValueError, match="alpha='beta': expected one of normal, uniform"):
        Mixing(alpha="beta")


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_linear_embedding_keeps_straight_lines(noise: float) -> None:
    """Without noise its loss is 0 for every alpha; with noise it is the noise's variance."""
    embed = nn.Linear(6, 16).double()
    real, fake = torch.randn(4000, 6).double(), torch.randn(4000, 6).double()
    alpha = torch.randn(4000).double()
    target_noise = noise * torch.randn(4000, 16).double()
    loss = disomap_loss(embed(mix(alpha, real, fake)), embed(real), embed(fake), alpha, target_noise)
    assert float(loss.detach()) == pytest.approx(noise**2, rel=0.02, abs=1e-20)


def test_alpha_of_one_compares_with_the_real_code() -> None:
    embed = nn.Sequential(nn.Linear(6, 4), nn.Tanh())
    real, fake = torch.randn(5, 6), torch.randn(5, 6)
    noise = torch.randn(5, 4)
    alpha = torch.ones(5)
    loss = disomap_loss(embed(mix(alpha, real, fake)), embed(real), embed(fake), alpha, noise)
    expected = nn.functional.mse_loss(embed(real), embed(real) + noise)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_noise_is_added_to_the_target() -> None:
    codes, noise = torch.zeros(3, 4), torch.full((3, 4), 0.5)
    assert float(disomap_loss(codes + 0.5, codes, codes, torch.ones(3), noise)) == 0.0


def test_the_target_of_a_straight_line_has_no_gradient() -> None:
    mixed, real, fake = (torch.randn(5, 4, requires_grad=True) for _ in range(3))
    disomap_loss(mixed, real, fake, torch.randn(5), torch.zeros(5, 4)).backward()
    assert mixed.grad is not None
    assert real.grad is None
    assert fake.grad is None


def test_an_image_is_its_own_neighbour_at_no_cost_and_neighbours_get_no_gradient() -> None:
    code = torch.randn(5, 4, requires_grad=True)
    neighbour = torch.randn(5, 4, requires_grad=True)
    assert float(dlle_loss(code, code).detach()) == 0.0
    dlle_loss(code, neighbour).backward()
    assert neighbour.grad is None
    assert torch.allclose(code.grad, 2 * (code - neighbour).detach() / 20)  # type: ignore[arg-type]


def test_distances_to_the_nearest_and_their_gradient() -> None:
    codes = torch.tensor([[0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    points = torch.tensor([[0.0, 0.2], [3.0, 3.0]], requires_grad=True)
    distance, nearest = squared_distances(codes, points)
    assert distance.tolist() == pytest.approx([0.02, 0.82])
    assert nearest.tolist() == [0, 0]
    distance.sum().backward()
    assert points.grad is None
    assert torch.allclose(codes.grad, torch.tensor([[0.0, -0.2], [1.0, 0.8]]))  # type: ignore[arg-type]


def test_small_distances_of_large_codes_are_not_lost() -> None:
    codes = torch.full((1, 16), 1000.0)
    distance, _ = squared_distances(codes, codes + 0.01)
    assert float(distance) == pytest.approx(1e-4, rel=0.1)
