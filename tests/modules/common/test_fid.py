"""Frechet distance and Inception score against torch-fidelity and scipy; what is frozen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric

from modules.common.extractors import InceptionV3
from modules.common.fid import FrechetDistance, frechet_distance
from modules.common.frozen import Frozen
from modules.common.inception_score import InceptionScore


def features(n: int, d: int, seed: int, shift: float = 0.0) -> Tensor:
    """Correlated and non-negative, as features after a ReLU."""
    source = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(7)) / d**0.5
    return (torch.randn(n, d, generator=source) @ mixing + 0.3 + shift).relu()


def distance_between(real: Tensor, fake: Tensor, batch: int = 100) -> float:
    metric = FrechetDistance(real.shape[1])
    for part in real.split(batch):
        metric.update(part, real=True)
    for part in fake.split(batch):
        metric.update(part, real=False)
    return float(metric.compute())


# 150 images in 256 dimensions: rank-deficient covariances, the case in which roots of matrices go wrong
@pytest.mark.parametrize(("n", "d"), [(2000, 64), (500, 256), (150, 256)])
def test_frechet_distance_agrees_with_torch_fidelity(n: int, d: int) -> None:
    real, fake = features(n, d, 0), features(n, d, 1, 0.1)
    statistics = [fid_features_to_statistics(x.double()) for x in (real, fake)]
    reference = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert distance_between(real, fake) == pytest.approx(reference, rel=1e-3)


def test_frechet_distance_agrees_with_the_root_of_the_matrix() -> None:
    (m1, s1), (m2, s2) = ((x.mean(0), torch.cov(x.T)) for x in (features(900, 64, s).double() for s in (2, 3)))
    root = scipy.linalg.sqrtm((s1 @ s2).numpy()).real
    reference = float((m1 - m2).square().sum() + s1.trace() + s2.trace()) - 2 * float(np.trace(root))
    assert float(frechet_distance(m1, s1, m2, s2)) == pytest.approx(reference, rel=1e-6)


def test_frechet_distance_limits() -> None:
    x = features(300, 16, 4)
    assert distance_between(x, x) == pytest.approx(0, abs=1e-6)
    assert distance_between(x, x + 0.5) == pytest.approx(16 * 0.25, rel=1e-5)  # a shift alone: its squared length
    assert distance_between(x, x.flip(0), batch=7) == pytest.approx(0, abs=1e-6)
    one = FrechetDistance(16)
    one.update(x[:1], real=True)
    one.update(x[:1], real=False)
    assert math.isnan(float(one.compute()))


def test_frechet_distance_of_one_dimension_by_hand() -> None:
    """N(0, 1) and N(3, 4): 9 + (1 - 2)^2."""
    tensors = ([0.0], [[1.0]], [3.0], [[4.0]])
    assert float(frechet_distance(*(torch.tensor(t, dtype=torch.float64) for t in tensors))) == pytest.approx(10.0)


def test_frechet_distance_adds_over_processes() -> None:
    """Its states are sums: two halves measured apart and added are the whole."""
    real, fake = features(200, 32, 5), features(200, 32, 6)
    halves = [FrechetDistance(32), FrechetDistance(32)]
    for index, half in enumerate(halves):
        half.update(real[index::2], real=True)
        half.update(fake[index::2], real=False)
    for name in halves[0]._defaults:
        assert halves[0]._reductions[name] is torchmetrics_sum()
        setattr(halves[0], name, getattr(halves[0], name) + getattr(halves[1], name))
    assert float(halves[0].compute()) == pytest.approx(distance_between(real, fake), rel=1e-9)


def torchmetrics_sum() -> object:
    from torchmetrics.utilities import dim_zero_sum

    return dim_zero_sum


@pytest.mark.parametrize("splits", [1, 10])
def test_inception_score_agrees_with_torch_fidelity(splits: int) -> None:
    logits = torch.randn(1000, 20, generator=torch.Generator().manual_seed(0)) * 3
    metric = InceptionScore(20, splits)
    for numbers in torch.randperm(1000, generator=torch.Generator().manual_seed(1)).split(64):
        metric.update(logits[numbers], numbers)
    ordered = torch.cat([logits[part::splits] for part in range(splits)])
    reference = isc_features_to_metric(ordered, splits=splits, shuffle=False)["inception_score_mean"]
    assert float(metric.compute()) == pytest.approx(reference, rel=1e-6)


def test_inception_score_limits() -> None:
    alike, apart = InceptionScore(5, 1), InceptionScore(5, 1)
    alike.update(torch.zeros(10, 5), torch.arange(10))
    apart.update(torch.eye(5) * 100, torch.arange(5))
    assert float(alike.compute()) == pytest.approx(1)
    assert float(apart.compute()) == pytest.approx(5)


def test_inception_builds_without_network_and_gives_what_torch_fidelity_does() -> None:
    torch.manual_seed(0)
    extractor = InceptionV3(pretrained=False).eval()
    assert (extractor.suffix, extractor.features, extractor.classes) == ("", 2048, 1008)
    pixels = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        actual, logits = extractor.describe(pixels)
        theirs = extractor.network((pixels * 255).round().to(torch.uint8))
    assert actual.shape == (1, 2048)
    assert logits.shape == (1, 1008)
    assert torch.equal(actual, theirs[0])
    assert not any(p.requires_grad for p in extractor.parameters())


def test_what_is_kept_aside_is_frozen_and_no_child() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.aside = Frozen([nn.Linear(2, 2)])

    holder = Holder()
    assert not list(holder.parameters())
    assert not any(p.requires_grad for n in holder.aside.on(torch.device("cpu")) for p in n.parameters())


def test_scores_of_generated_images_add_up_over_processes() -> None:
    score = InceptionScore(20)
    assert (score.splits, score.p.dtype) == (10, torch.float64)
    assert set(score._reductions.values()) == {torchmetrics_sum()}
    assert set(score._reductions) == {"p", "p_log_p", "n"}


def test_classes_that_one_part_has_do_not_reach_another() -> None:
    """Two parts of two images, by hand: one alike, one apart; their mean is (1 + 2) / 2."""
    score = InceptionScore(3, 2)
    score.update(torch.tensor([[0.0, 0, 0], [99.0, 0, 0], [0.0, 0, 0], [0.0, 99.0, 0]]), torch.tensor([0, 1, 2, 3]))
    assert float(score.compute()) == pytest.approx(1.5)
