"""The critic's losses and its gradient penalty."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modules.sparse.adversarial import (
    between,
    critic_loss,
    generator_loss,
    gradient_penalty,
    shared_mean,
)
from modules.sparse.networks import Critic


def test_losses_of_scores() -> None:
    real, fake = torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[0.0, 2.0], [1.0, 1.0]])
    assert float(critic_loss(real, fake, 2)) == pytest.approx(1 - 4)
    assert float(generator_loss(fake, 2)) == pytest.approx(-1)


@pytest.mark.parametrize("length", [0.5, 1.0, 3.0])
def test_the_penalty_of_a_linear_critic(length: float) -> None:
    w = torch.randn(3, 4, 4)
    w = w / w.norm() * length
    penalty = gradient_penalty(lambda x: (x * w).sum((1, 2, 3)), torch.randn(5, 3, 4, 4))
    assert penalty.tolist() == pytest.approx([(length - 1) ** 2] * 5, abs=1e-5)


def test_of_patches_the_gradient_of_the_sum_is_taken() -> None:
    """Four patches that each see a quarter of the image with weights w: |gradient| = 2 |w|, not |w| / 2."""
    w = torch.randn(1, 1, 2, 2)
    w = w / w.norm() * 0.5
    penalty = gradient_penalty(lambda x: nn.functional.conv2d(x, w, stride=2), torch.randn(3, 1, 4, 4))
    assert penalty.tolist() == pytest.approx([0.0] * 3, abs=1e-5)


def test_the_penalty_can_be_minimised() -> None:
    critic = Critic(2, channels=1, widths=[4, 8], side=8)
    gradient_penalty(critic.scores, torch.rand(3, 1, 8, 8)).mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in critic.patch.parameters())
    assert all(p.grad is None for p in critic.category.parameters())


def test_points_lie_between_pairs() -> None:
    real, fake = torch.rand(3, 1, 2, 2), torch.rand(3, 1, 2, 2)
    points = between(real, fake, torch.tensor([0.0, 1.0, 0.25]))
    assert torch.equal(points[0], fake[0])
    assert torch.equal(points[1], real[1])
    assert torch.allclose(points[2], 0.25 * real[2] + 0.75 * fake[2])


def test_the_mean_of_one_process_is_the_mean() -> None:
    values: Tensor = torch.rand(7)
    assert float(shared_mean(values, 7)) == pytest.approx(float(values.mean()))
