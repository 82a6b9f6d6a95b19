"""mixup against hand-computed values, an independent reference, its limits and its gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mine.modules.mixup import Mixup, draw_lam, mix, mixup_loss, preact_resnet18


def test_images_are_mixed_pixel_by_pixel() -> None:
    """lam = 1/4 of 0 and 3/4 of 4 is 3; the other way round 1."""
    x = torch.tensor([0.0, 4.0]).reshape(2, 1, 1, 1)
    mixed = mix(x, torch.tensor([1, 0]), lam=0.25)
    assert mixed.flatten().tolist() == [3.0, 1.0]


def test_the_loss_of_two_classes() -> None:
    """p = (3/4, 1/4) for both images, labels 0 and 1, lam = 1/4.

    The first gives -1/4 ln 3/4 - 3/4 ln 1/4, the second -1/4 ln 1/4 - 3/4 ln 3/4: in the mean (ln 4 - ln 3 + ln 4) / 2.
    """
    z = torch.tensor([[math.log(3.0), 0.0]] * 2)
    loss = mixup_loss(z, torch.tensor([0, 1]), torch.tensor([1, 0]), lam=0.25)
    assert loss.item() == pytest.approx((2 * math.log(4) - math.log(3)) / 2)


def test_it_is_the_cross_entropy_with_mixed_labels() -> None:
    z = torch.randn(6, 4)
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    order = torch.tensor([5, 4, 3, 2, 1, 0])
    labels = 0.3 * F.one_hot(y, 4) + 0.7 * F.one_hot(y[order], 4)  # (B, classes)
    torch.testing.assert_close(mixup_loss(z, y, order, 0.3), F.cross_entropy(z, labels))


def test_a_share_of_one_is_erm() -> None:
    x, z = torch.randn(4, 1, 2, 2), torch.randn(4, 3)
    y, order = torch.tensor([0, 1, 2, 0]), torch.tensor([3, 2, 1, 0])
    assert torch.equal(mix(x, order, 1.0), x)
    assert torch.equal(mixup_loss(z, y, order, 1.0), F.cross_entropy(z, y))


def test_the_gradient_is_the_prediction_less_the_mixed_label() -> None:
    """Equal logits predict (1/2, 1/2); lam = 1/4 of label 0 and 3/4 of label 1 is (1/4, 3/4); two images share it."""
    z = torch.zeros(2, 2, requires_grad=True)
    mixup_loss(z, torch.tensor([0, 1]), torch.tensor([1, 0]), lam=0.25).backward()
    assert z.grad is not None
    torch.testing.assert_close(z.grad, torch.tensor([[0.25, -0.25], [-0.25, 0.25]]) / 2)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_drawn_from_a_symmetric_beta(alpha: float) -> None:
    """Mean 1/2, variance 1 / (4 (2 alpha + 1)): five standard errors of 2,000 draws."""
    draws = torch.tensor([draw_lam(alpha) for _ in range(2000)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert draws.mean().item() == pytest.approx(0.5, abs=5 * math.sqrt(variance / 2000))
    assert draws.var().item() == pytest.approx(variance, rel=0.2)
    assert ((draws >= 0) & (draws <= 1)).all()


def test_a_wrong_alpha_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha=0: expected more than 0"):
        Mixup(nn.Flatten(), 2, alpha=0)


def test_the_network_has_the_size_of_the_released_one() -> None:
    """Each stage: its first block with c channels in, w out and a shortcut where c != w, its second with w and w."""
    stages = ((64, 64), (64, 128), (128, 256), (256, 512))
    kernels = sum(9 * c * w + 9 * w * w + (c * w if c != w else 0) + 2 * 9 * w * w for c, w in stages)
    norms = sum(2 * c + 2 * w + 4 * w for c, w in stages)
    network = preact_resnet18()
    assert sum(p.numel() for p in network.parameters()) == 9 * 3 * 64 + kernels + norms + 512 * 10 + 10 == 11_171_146
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
