"""Metrics of reconstructions and of samples are those of the extractor's features."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.common.fid import FrechetDistance
from modules.common.kid import kernel_distance
from modules.vit_vqgan.evaluation import ReconstructionMetrics, SampleMetrics


def frechet(real: torch.Tensor, fake: torch.Tensor) -> float:
    metric = FrechetDistance(real.shape[1])
    metric.update(real, real=True)
    metric.update(fake, real=False)
    return float(metric.compute())


def test_reconstructions_are_compared_by_features(extractor: nn.Module) -> None:
    x, x_hat = torch.rand(2, 6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    metrics = ReconstructionMetrics(extractor, 32)  # type: ignore[arg-type]
    metrics.start(6)
    for rows in torch.arange(6).split(4):
        metrics.update(x[rows], x_hat[rows], torch.zeros(len(rows), 16, dtype=torch.long), rows)
    values = metrics.compute()
    features = [extractor.describe(images)[0] for images in (x, x_hat)]  # type: ignore[operator]
    assert float(values["rfid_pooled"]) == pytest.approx(frechet(*features), rel=1e-6)
    assert float(values["mse"]) == pytest.approx(float((x - x_hat).square().mean()), rel=1e-5)


def test_samples_are_compared_by_features(extractor: nn.Module) -> None:
    real, generated = torch.rand(2, 6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    generated = generated / 2
    metrics = SampleMetrics(extractor, 2)  # type: ignore[arg-type]
    for rows in torch.arange(6).split(4):
        metrics.update(real[rows], generated[rows], torch.full((len(rows), 16), 0.5), rows)
    values = metrics.compute()
    features = [extractor.describe(images)[0] for images in (real, generated)]  # type: ignore[operator]
    assert float(values["fid_pooled"]) == pytest.approx(frechet(*features), rel=1e-6)
    assert float(values["kid_pooled"]) == pytest.approx(float(kernel_distance(*features)), rel=1e-6)
    assert float(values["nll"]) == 0.5
