"""Losses by hand, their two forms, the rule that pauses, and the scores of samples against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.common.judge import Judge
from modules.common.schedules import Position
from modules.ppgn.evaluation import SampleScores
from modules.ppgn.losses import (
    Pause,
    Weights,
    adversarial_loss,
    as_mean_weight,
    discriminator_loss,
    euclidean_loss,
)
from modules.ppgn.neighbourhoods import density_and_coverage, radii, within_class_distance
from modules.ppgn.networks import SmallJudge
from modules.ppgn.schedules import after_steps


def test_caffes_euclidean_loss() -> None:
    a, b = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    assert float(euclidean_loss(a, b)) == pytest.approx((1 + 4 + 9) / 4)


def test_the_two_forms_are_one_loss() -> None:
    a, b = torch.randn(3, 2, 5, 5), torch.randn(3, 2, 5, 5)
    torch.testing.assert_close(2e-6 * euclidean_loss(a, b), as_mean_weight(2e-6, 50) * F.mse_loss(a, b))
    assert as_mean_weight(2e-6, 3 * 227 * 227) == pytest.approx(0.155, abs=5e-4)
    assert as_mean_weight(0.01, 256 * 6 * 6) == pytest.approx(46.08)
    torch.testing.assert_close(Weights(form="sum").distance(a, b), euclidean_loss(a, b))
    torch.testing.assert_close(Weights(form="mean").distance(a, b), F.mse_loss(a, b))


def test_the_papers_weights_are_the_defaults() -> None:
    weights = Weights()
    assert (weights.image, weights.feature, weights.code, weights.adversarial) == (2e-6, 0.01, 0.0, 100.0)
    assert weights.form == "sum"


def test_a_discriminator_that_does_not_know() -> None:
    even = torch.zeros(4, 2)
    assert float(adversarial_loss(even)) == pytest.approx(math.log(2))
    assert float(discriminator_loss(even, even)) == pytest.approx(2 * math.log(2))


def test_who_is_real() -> None:
    says_real, says_generated = torch.tensor([[-9.0, 9.0]]), torch.tensor([[9.0, -9.0]])
    assert float(discriminator_loss(says_real, says_generated)) < 1e-6
    assert float(discriminator_loss(says_generated, says_real)) == pytest.approx(36, rel=1e-4)
    assert float(adversarial_loss(says_real)) < 1e-6


@pytest.mark.parametrize(
    ("loss_d", "loss_gan", "expected"),
    [(1.0, 1.0, (True, True)), (0.09, 1.0, (False, True)), (0.1001, 1.0, (True, True)), (10.1, 1.0, (True, False))],
)
def test_the_pause(loss_d: float, loss_gan: float, expected: tuple[bool, bool]) -> None:
    assert Pause().trains(torch.tensor(loss_d), torch.tensor(loss_gan)) == expected


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="form='rms': expected one of sum, mean"):
        Weights(form="rms")
    with pytest.raises(ValueError, match="image=-1: expected a weight from 0"):
        Weights(image=-1)
    with pytest.raises(ValueError, match="low=2, high=1: expected 0 <= low < high"):
        Pause(2, 1)
    with pytest.raises(ValueError, match="suffix='': expected a name"):
        Judge(SmallJudge(), 10, suffix="")


def test_rates_by_steps() -> None:
    at = [0, 299_999, 300_000, 1_100_000]
    factors = [after_steps(Position(s // 20_019, s % 20_019, 20_019, 65), [300_000, 1_100_000]) for s in at]
    assert factors == [1.0, 1.0, 0.5, 0.25]


# Density and coverage


def brute_force(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float]:
    """Both by their definitions, one pair at a time."""
    reach = []
    for i, r in enumerate(real):
        others = sorted(math.dist(r, o) for j, o in enumerate(real) if j != i)
        reach.append(others[k - 1])
    held = [[math.dist(r, f) < radius for f in fake] for r, radius in zip(real, reach, strict=True)]
    return sum(map(sum, held)) / (k * len(fake)), sum(map(any, held)) / len(real)


@pytest.mark.parametrize("k", [1, 5])
def test_density_and_coverage_are_their_definitions(k: int) -> None:
    real = torch.randn(41, 3, generator=torch.Generator().manual_seed(1))
    fake = torch.randn(23, 3, generator=torch.Generator().manual_seed(2)) * 0.8 + 0.3
    ours = [float(v) for v in density_and_coverage(real, fake, k)]
    assert ours == pytest.approx(brute_force(real.numpy(), fake.numpy(), k), abs=1e-6)


def test_density_and_coverage_by_hand() -> None:
    """Reals at 0, 1, 3 with k = 1 have balls of 1, 1 and 2; fakes at 0.5 and 0.4 lie in the first two of them."""
    real, fake = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5], [0.4]])
    assert radii(real, 1).tolist() == [1, 1, 2]
    density, coverage = density_and_coverage(real, fake, 1)
    assert float(density) == pytest.approx(4 / 2)
    assert float(coverage) == pytest.approx(2 / 3)


def test_the_same_images_cover_themselves() -> None:
    x = torch.randn(50, 4)
    assert float(density_and_coverage(x, x, 5)[1]) == 1.0
    assert float(density_and_coverage(x, x + 100, 5)[1]) == 0.0
    with pytest.raises(ValueError, match="k=50: expected 1 to 49, of 50 real samples"):
        radii(x, 50)


def test_many_rows_are_cut_into_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = torch.randn(30, 3), torch.randn(20, 3)
    whole = density_and_coverage(real, fake, 3)
    monkeypatch.setattr("modules.ppgn.neighbourhoods.CHUNK", 7)
    torch.testing.assert_close(density_and_coverage(real, fake, 3), whole)


def test_distances_within_classes() -> None:
    features, labels = torch.tensor([[0.0], [2.0], [5.0], [6.0], [9.0]]), torch.tensor([0, 0, 1, 1, 2])
    assert float(within_class_distance(features, labels)) == pytest.approx((2 + 1) / 2)
    assert math.isnan(float(within_class_distance(features[:1], labels[:1])))


def features(seed: int, n: int = 60) -> Tensor:
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed))


def test_scores_of_samples() -> None:
    scores = SampleScores(4, "_judge", k=3)
    labels = torch.arange(60) % 5
    real, fake = features(1), 2 * features(2)
    for part in (slice(0, 25), slice(25, 60)):
        scores.update(real[part], fake[part], labels[part])
        scores.judge(judge=labels[part] < 2, condition=labels[part] < 4, moved=fake[part].norm(dim=1))
    made = {name: float(value) for name, value in scores.compute().items()}
    assert (made["judge_top1"], made["condition_top1"], made["n"]) == (pytest.approx(40), pytest.approx(80), 60)
    typical = float(within_class_distance(real, labels))
    assert made["diversity"] == pytest.approx(float(within_class_distance(fake, labels)) / typical)
    assert made["mixing"] == pytest.approx(float(fake.norm(dim=1).mean()) / typical)
    density, coverage = density_and_coverage(real, fake, 3)
    assert made["density_judge"] == pytest.approx(float(density))
    assert made["coverage_judge"] == pytest.approx(float(coverage))
    assert made["fid_judge"] > 0
    assert "ms_ssim" not in made
    scores.update(real, real.clone(), labels)
    again = scores.compute()
    assert float(again["n"]) == 60  # it starts anew
    assert float(again["diversity"]) == pytest.approx(1)
    assert abs(float(again["fid_judge"])) < 1e-6


def test_ms_ssim_of_neighbours_of_a_class() -> None:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

    scores = SampleScores(4, "_judge", ms_ssim=True)
    x = torch.rand(4, 1, 176, 176)
    x[1] = x[0]
    target = torch.tensor([1, 1, 2, 2])
    scores.compare(x, target)
    scores.update(features(1, 4), features(2, 4), target)
    expected = (1 + float(ms_ssim(x[2:3], x[3:4], data_range=1.0))) / 2
    assert float(scores.compute()["ms_ssim"]) == pytest.approx(expected, rel=1e-4)
    scores.compare(x[..., :28, :28], target)
    assert not float(scores.sums.compute()["pairs"])


def test_the_judges_features_enter_its_last_layer() -> None:
    judge = Judge(SmallJudge(features=12), 10).eval()
    x = torch.randn(3, 1, 28, 28)
    described, logits = judge.describe(x)
    assert described.shape == (3, 12)
    torch.testing.assert_close(logits, judge(x))
    torch.testing.assert_close(judge.network[-1](described), logits)
