"""MaEM-GAN's discriminator, which answers with K random numbers instead of one, and small perceptrons."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from modules.common.precision import at_least_single


class Embedding(nn.Module):
    """D: samples to codes z = mu(x) + exp(log sigma^2(x) / 2) eps in R^K, eps ~ N(0, I) ("resampling trick").

    Both maps are one spectrally normalised linear layer on the body's features, from an orthogonal matrix, without
    a bias. No term pulls the distribution towards a prior.

    Args:
        body: samples -> features (B, F); has the attribute `features`, F.
        outcomes: K.
        resampling: False gives codes without noise, sigma = 0.
        packing: samples that D judges together, along their channels (PacGAN, Lin et al. 2018, arXiv 1712.04086);
            `body` takes as many times the channels.
    Raises:
        ValueError: packing below 1.
    """

    def __init__(self, body: nn.Module, outcomes: int = 16, resampling: bool = True, packing: int = 1) -> None:
        super().__init__()
        if packing < 1:
            raise ValueError(f"packing={packing}: expected 1 or more samples")
        self.body = body
        self.outcomes = outcomes
        self.resampling = resampling
        self.packing = packing
        head = nn.Linear(int(body.features), (1 + resampling) * outcomes, bias=False)  # type: ignore[arg-type]
        nn.init.orthogonal_(head.weight)
        self.head = spectral_norm(head)

    def pack(self, samples: Tensor) -> Tensor:
        """Samples (B, C, ...) -> packs (B / m, m C, ...) of m neighbours in the batch; a rest is left out."""
        if self.packing == 1:
            return samples
        count = len(samples) // self.packing
        return samples[: count * self.packing].reshape(count, -1, *samples.shape[2:])

    def distribution(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, ...) -> mu and log sigma^2, both (B, K), not in half precision: distances of codes are small."""
        output = at_least_single(self.head(self.body(x)))
        if not self.resampling:
            return output, torch.full_like(output, -math.inf)
        mean, log_variance = output.chunk(2, 1)
        return mean, log_variance

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> the codes' means (B, K)."""
        return self.distribution(x)[0]


def resample(mean: Tensor, log_variance: Tensor, eps: Tensor) -> Tensor:
    """Codes (B, K) from eps ~ N(0, I) (B, K)."""
    return mean + (log_variance / 2).exp() * eps


class DenseGenerator(nn.Sequential):
    """Noise (B, code) -> samples (B, *shape): a perceptron, for points and for images too small for convolutions.

    Args:
        code: entries of the noise.
        widths: of the hidden layers, each followed by a batch norm (for images alone) and a ReLU.
        shape: of a sample; images (C, H, W) end in a tanh, points (2,) do not.
    """

    def __init__(self, code: int, widths: Sequence[int], shape: Sequence[int] = (2,)) -> None:
        images = len(shape) > 1
        layers: list[nn.Module] = []
        inputs = code
        for width in widths:
            layers.append(nn.Linear(inputs, width, bias=not images))
            layers += [nn.BatchNorm1d(width), nn.ReLU()] if images else [nn.ReLU()]
            inputs = width
        layers.append(nn.Linear(inputs, math.prod(shape)))
        layers += [nn.Tanh(), nn.Unflatten(1, tuple(shape))] if images else []
        super().__init__(*layers)
        self.code = code


class DenseBody(nn.Sequential):
    """Samples (B, *shape) -> features (B, F): a spectrally normalised perceptron.

    Args:
        widths: of the layers; F is the last.
        shape: of a sample.
    """

    def __init__(self, widths: Sequence[int], shape: Sequence[int] = (2,)) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = math.prod(shape)
        for width in widths:
            layers += [spectral_norm(nn.Linear(inputs, width)), nn.LeakyReLU(0.2)]
            inputs = width
        super().__init__(*layers)
        self.features = inputs
