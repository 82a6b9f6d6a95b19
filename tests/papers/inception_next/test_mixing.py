"""The mixed images and the schedule that the recipe takes from common."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from modules.common.mixing import MixedClassifier, warm_cosine
from modules.common.schedules import Position
from tests.papers.inception_next.helpers import small, tensor


def test_the_schedule_alone_is_a_cosine() -> None:
    assert warm_cosine(Position(0, 0, 10, 30)) == 1.0
    assert warm_cosine(Position(15, 0, 10, 30)) == pytest.approx(0.5)


def test_mixed_labels_carry_the_share_of_each_image_and_smoothing_commutes() -> None:
    module = MixedClassifier(small(), 10, 0.1, mixup=0.8, cutmix=1.0)
    kinds = set()
    for seed in range(40):
        torch.manual_seed(seed)
        x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 16, 16).clone()
        mixed, soft = module.mixed(x, torch.arange(4))
        assert torch.allclose(soft.sum(1), torch.ones(4))
        value = (soft * torch.arange(10.0)).sum(1)  # image i has value i: its mean is that of its label
        assert torch.allclose(mixed.mean((1, 2, 3)), value, atol=1e-4)
        kinds.add(len(mixed[1].unique()) > 1)
    assert kinds == {True, False}  # boxes and blends
    z = tensor(4, 10)
    smoothed = 0.9 * soft + 0.1 / 10  # timm mixes smoothed labels
    by_hand = -(smoothed * z.log_softmax(1)).sum(1).mean()
    assert torch.allclose(F.cross_entropy(z, soft, label_smoothing=0.1), by_hand)


def test_only_one_kind_of_mixing() -> None:
    torch.manual_seed(0)
    x, y = tensor(4, 1, 8, 8), torch.arange(4)
    blended, _ = MixedClassifier(small(), 10, mixup=0.8).mixed(x, y)
    assert not (blended == x).any()
    plain = MixedClassifier(small(), 10)
    assert plain.mixed(x, y)[0] is x
    loss = plain.train().training_step((x, y), 0)
    assert torch.allclose(loss, F.cross_entropy(plain.network(x), y))
