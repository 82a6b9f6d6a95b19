"""A network that knows x_0 says v exactly, and eps follows from it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from datamodules.common.loader import batch_type
from modules.common.diffusion import NoiseSchedule
from modules.common.velocity import VelocityDDPM

SCHEDULE = NoiseSchedule(100)


class Known(nn.Module):
    """v of images that are all x_0 = 0.5, plus an error."""

    classes = None

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.error = nn.Parameter(torch.tensor(error))

    def forward(self, noisy: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = SCHEDULE.at("signal", t), SCHEDULE.at("noise", t)
        eps = (noisy - 0.5 * alpha) / sigma
        return alpha * eps - 0.5 * sigma + self.error


def module(error: float = 0.0) -> VelocityDDPM:
    return VelocityDDPM(Known(error), SCHEDULE)  # type: ignore[arg-type]


def test_noise_follows_from_the_velocity() -> None:
    t, eps = torch.tensor([0, 40, 99]), torch.randn(3, 1, 2, 2)
    noisy = SCHEDULE.diffuse(torch.full_like(eps, 0.5), t, eps)
    with torch.no_grad():
        assert torch.allclose(module().predict(noisy, t), eps, atol=1e-4)


@pytest.mark.parametrize("error", [0.0, 0.25])
def test_training_compares_velocities(error: float) -> None:
    this = module(error)
    loss = this.training_step(batch_type(("x", "y"))(torch.full((6, 1, 2, 2), 0.5), torch.zeros(6)), 0)
    assert float(loss.detach()) == pytest.approx(error**2, abs=1e-8)
    assert float(this._sums["loss"]) / this._count == pytest.approx(error**2, abs=1e-8)


def test_velocities_are_of_labels_too() -> None:
    class OfClass(nn.Module):
        classes = 2

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, noisy: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return self.weight * y.view(-1, 1, 1, 1).expand_as(noisy)

    this = VelocityDDPM(OfClass(), SCHEDULE)  # type: ignore[arg-type]
    noisy, t, y = torch.randn(2, 1, 2, 2), torch.tensor([10, 60]), torch.tensor([0, 3])
    expected = SCHEDULE.at("noise", t) * noisy + SCHEDULE.at("signal", t) * y.view(2, 1, 1, 1)
    assert torch.allclose(this.predict(noisy, t, y=y), expected)
