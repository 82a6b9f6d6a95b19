"""MaEM-GAN's discriminator, which answers with K random numbers instead of one, and the networks of points in a plane."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class Embedding(nn.Module):
    """D: samples to codes z = mu(x) + exp(log sigma^2(x) / 2) eps in R^K, eps ~ N(0, I) ("resampling trick").

    Both maps are one spectrally normalised linear layer on the body's features, from an orthogonal matrix, without
    a bias. No term pulls the distribution towards a prior.

    Args:
        body: samples -> features (B, F); has the attribute `features`, F.
        outcomes: K.
    """

    def __init__(self, body: nn.Module, outcomes: int = 16) -> None:
        super().__init__()
        self.body = body
        self.outcomes = outcomes
        head = nn.Linear(int(body.features), 2 * outcomes, bias=False)  # type: ignore[arg-type]
        nn.init.orthogonal_(head.weight)
        self.head = spectral_norm(head)

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, ...) -> mu and log sigma^2, both (B, K), not in half precision: distances of codes are small."""
        mean, log_variance = at_least_single(self.head(self.body(x))).chunk(2, 1)
        return mean, log_variance

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> the codes' means (B, K)."""
        return self.distribution(x)[0]


def at_least_single(x: Tensor) -> Tensor:
    """fp32 instead of half precision; fp64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def resample(mean: Tensor, log_variance: Tensor, eps: Tensor) -> Tensor:
    """Codes (B, K) from eps ~ N(0, I) (B, K)."""
    return mean + (log_variance / 2).exp() * eps


class PointGenerator(nn.Sequential):
    """Noise (B, code) -> points (B, 2): a perceptron.

    Args:
        code: entries of the noise.
        widths: of the hidden layers.
    """

    def __init__(self, code: int, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        inputs = code
        for width in widths:
            layers += [nn.Linear(inputs, width), nn.ReLU()]
            inputs = width
        super().__init__(*layers, nn.Linear(inputs, 2))
        self.code = code


class PointBody(nn.Sequential):
    """Points (B, 2) -> features (B, F): a spectrally normalised perceptron.

    Args:
        widths: of the layers; F is the last.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        inputs = 2
        for width in widths:
            layers += [spectral_norm(nn.Linear(inputs, width)), nn.LeakyReLU(0.2)]
            inputs = width
        super().__init__(*layers)
        self.features = inputs
