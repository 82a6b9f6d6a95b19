"""The losses of images and reconstructions by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.vit_vqgan.losses import EPSILON, ReconstructionLosses, logit_laplace


def test_logit_laplace_by_hand_and_as_a_density() -> None:
    zero = torch.zeros(())
    assert float(logit_laplace(torch.tensor(0.5), zero, zero)) == pytest.approx(-0.6931, abs=1e-4)
    assert float(logit_laplace(torch.tensor(1.0), zero, zero)) == pytest.approx(0.4824, abs=1e-4)
    mapped = torch.linspace(1e-5, 1 - 1e-5, 200_001, dtype=torch.float64)
    x = (mapped - EPSILON) / (1 - 2 * EPSILON)
    mu, log_b = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-0.4, dtype=torch.float64)
    density = torch.stack([torch.exp(-logit_laplace(part, mu, log_b)) for part in x[::50]])
    assert float(torch.trapezoid(density, mapped[::50])) == pytest.approx(1, abs=1e-3)


def test_a_weight_without_a_network_is_named() -> None:
    with pytest.raises(ValueError, match="perceptual=None"):
        ReconstructionLosses(perceptual_weight=0.1)


def test_a_network_without_a_weight_is_not_used() -> None:
    losses = ReconstructionLosses(perceptual_weight=0.0, perceptual=nn.Identity())
    x = torch.rand(2, 1, 4, 4)
    assert set(losses.terms(x, x, x)) == {"l2"}
