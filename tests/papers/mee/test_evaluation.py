"""Modes, quality and variances of samples: by hand, limit cases, and whether batches matter."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from modules.mee.evaluation import (
    CodeSpread,
    InceptionVariance,
    ModeCounts,
    PhotoScores,
    RingScores,
    StackedScores,
    ring,
)
from modules.mee.judge import DigitJudge


def test_modes_by_hand() -> None:
    counts = ModeCounts(4)
    counts.update(torch.tensor([0, 0, 0, 1]), torch.tensor([True, False, True, True]))
    scores = counts.compute()
    assert float(scores["modes"]) == 2
    assert float(scores["kl"]) == pytest.approx(0.75 * math.log(3) + 0.25 * math.log(1))
    assert float(scores["high_quality"]) == 75.0
    assert float(scores["n"]) == 4


def test_limits_of_the_divergence() -> None:
    even, collapsed = ModeCounts(1000), ModeCounts(1000)
    even.update(torch.arange(1000).repeat(5), torch.ones(5000, dtype=torch.bool))
    collapsed.update(torch.full((5000,), 7), torch.ones(5000, dtype=torch.bool))
    assert float(even.compute()["kl"]) == pytest.approx(0.0, abs=1e-12)
    assert float(collapsed.compute()["kl"]) == pytest.approx(math.log(1000))
    assert (float(even.compute()["modes"]), float(collapsed.compute()["modes"])) == (1000, 1)


def test_what_chance_alone_gives() -> None:
    counts = ModeCounts(1000)
    counts.update(torch.randint(1000, (10_000,)), torch.ones(10_000, dtype=torch.bool))
    assert float(counts.compute()["kl"]) == pytest.approx(999 / 20_000, rel=0.15)


def test_a_mode_needs_its_least_share() -> None:
    counts = ModeCounts(3, least=0.01)
    counts.update(torch.cat([torch.zeros(990), torch.ones(10)]).long(), torch.ones(1000, dtype=torch.bool))
    assert float(counts.compute()["modes"]) == 2
    counts.update(torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.bool))
    assert float(counts.compute()["modes"]) == 1


def test_points_on_a_ring() -> None:
    scores = RingScores(modes=8, radius=2.0, deviation=0.1)
    centres = ring(8, 2.0)
    assert torch.allclose(centres.norm(dim=1), torch.full((8,), 2.0))
    assert torch.allclose(centres[2], torch.tensor([0.0, 2.0]), atol=1e-6)
    near, far = centres + torch.tensor([0.29, 0.0]), centres + torch.tensor([0.0, 0.31])
    scores.update(torch.zeros(16, 2), torch.cat([near, far]), torch.arange(16))
    made = scores.compute()
    assert (float(made["modes"]), float(made["high_quality"]), float(made["n"])) == (8, 50, 16)
    scores.update(torch.zeros(5, 2), torch.zeros(5, 2) + centres[3], torch.arange(5))  # it has started anew
    assert float(scores.compute()["modes"]) == 1
    assert not scores.state_dict()


def test_a_mode_of_the_ring_has_at_least_a_hundredth_of_the_samples() -> None:
    scores = RingScores(modes=8)
    for few, modes in ((1, 1), (2, 2)):
        numbers = torch.tensor([3] * (200 - few) + [5] * few)
        scores.update(torch.zeros(200, 2), scores.centres[numbers], torch.arange(200))
        assert float(scores.compute()["modes"]) == modes


def judge_of_brightness() -> DigitJudge:
    """A digit's class is 9 where it is bright and 0 where it is dark, and it is sure of both."""
    layer = nn.Linear(1, 10)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), layer)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-50, 50, 10)[:, None])
        layer.bias.zero_()
    return DigitJudge(network, 10)


class SingleDigits:
    """Bright and dark digits to learn from, and test digits that are nearly so."""

    def single_digits(self) -> tuple[Tensor, Tensor]:
        train = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
        return train, torch.stack([torch.full((1, 4, 4), 0.1), torch.full((1, 4, 4), 0.9)])


def stacks(*digits: tuple[int, int, int]) -> Tensor:
    """Bright (9) and dark (0) channels, and grey ones (5), which are no digits; (B, 3, 4, 4) in [-1, 1]."""
    value = {9: 1.0, 0: -1.0, 5: 0.0}
    return torch.tensor([[value[d] for d in row] for row in digits])[:, :, None, None].expand(-1, -1, 4, 4)


def test_stacks_are_numbers_and_as_good_as_their_worst_digit() -> None:
    scores = StackedScores()
    scores.start(judge_of_brightness())
    scores.prepare(SingleDigits())
    assert scores.reach == pytest.approx(0.4)  # 16 pixels that differ by 0.1
    modes, good, features = scores.look((stacks((9, 0, 0), (0, 9, 9), (9, 5, 9)) + 1) / 2)
    assert modes[:2].tolist() == [900, 99]
    assert good.tolist() == [True, True, False]
    assert features.shape == (3, 3)
    real = stacks((9, 0, 9), (0, 9, 0), (9, 9, 9), (0, 0, 0))
    scores.update(real, real, torch.arange(4))
    made = scores.compute()
    assert float(made["fid_judge"]) == pytest.approx(0.0, abs=1e-5)
    assert float(made["modes"]) == 4
    assert float(made["high_quality"]) == float(made["real_high_quality"]) == 100
    assert float(made["kl"]) == float(made["real_kl"]) == pytest.approx(math.log(250))


def test_spread_of_codes_by_hand() -> None:
    spread = CodeSpread(2)
    mean = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])  # variance 1 + 0
    spread.update(mean, torch.log(torch.tensor([[1.0, 2.0], [1.0, 2.0]])))  # variance 1 + 2
    assert float(spread.compute()) == pytest.approx(0.25)
    dead = CodeSpread(2)
    dead.update(torch.ones(5, 2), torch.zeros(5, 2))
    assert float(dead.compute()) == pytest.approx(0.0, abs=1e-12)


def test_inception_variance_is_numpys_standard_deviation() -> None:
    logits, numbers = torch.randn(40, 6), torch.arange(40)
    metric = InceptionVariance(6, splits=4)
    for rows in torch.arange(40).split(7):
        metric.update(logits[rows], numbers[rows])
    p = logits.double().softmax(-1).numpy()
    expected = sum(p[k::4].std(axis=0).mean() for k in range(4)) / 4
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-6)


def test_photos_that_are_the_real_ones() -> None:
    scores = PhotoScores(splits=2)
    scores.start(judge_of_brightness())
    x = torch.rand(64, 1, 4, 4) * 2 - 1
    scores.update(x, x, torch.arange(64))
    made = scores.compute()
    assert set(made) == {"fid_judge", "is_judge", "i_variance_judge", "n"}
    assert float(made["fid_judge"]) == pytest.approx(0.0, abs=1e-6)
    assert float(made["n"]) == 64


def test_a_judge_needs_a_name_and_a_linear_layer() -> None:
    with pytest.raises(ValueError, match="suffix=''"):
        DigitJudge(nn.Sequential(nn.Linear(2, 2)), 2, suffix="")
    with pytest.raises(ValueError, match="network ends in ReLU"):
        DigitJudge(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), 2)
