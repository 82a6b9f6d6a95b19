"""The discriminator of StyleGAN2: its sizes, its blur, its groups; the logistic losses and R1."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from modules.vit_vqgan.adversarial import (
    Critic,
    EqualizedConv,
    StyleDiscriminator,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)

LN2 = math.log(2)


@pytest.mark.parametrize(("size", "count"), [(1024, 29_012_513), (256, 28_864_129)])
def test_discriminator_has_the_published_size(size: int, count: int) -> None:
    """29,012,513 at 1024 is what StyleGAN2's released code prints for config F."""
    with torch.device("meta"):
        assert sum(p.numel() for p in StyleDiscriminator(size).parameters()) == count


@pytest.mark.parametrize(("size", "last"), [(32, 4), (28, 3), (16, 4)])
def test_discriminator_takes_sides_that_are_no_powers_of_two(size: int, last: int) -> None:
    d = StyleDiscriminator(size, 1, capacity=64, widest=8)
    assert d.blocks(torch.zeros(2, 1, size, size)).shape[-1] == last
    assert d(torch.randn(6, 1, size, size)).shape == (6,)


def test_blurred_downsampling_keeps_a_constant_and_removes_the_highest_frequency() -> None:
    conv = EqualizedConv(1, 1, 1, down=True, bias=False, activate=False)
    nn.init.ones_(conv.weight)
    constant, stripes = torch.ones(1, 1, 8, 8), torch.tensor([1.0, -1.0]).repeat(4).expand(1, 1, 8, 8)
    assert torch.allclose(conv(constant)[..., 1:-1, 1:-1], torch.ones(1, 1, 2, 2))
    assert torch.allclose(conv(stripes)[..., 1:-1, 1:-1], torch.zeros(1, 1, 2, 2), atol=1e-6)


def test_minibatch_deviation_sees_groups_of_consecutive_images() -> None:
    """Several processes hold consecutive shares: the logits of a group do not depend on the others'."""
    torch.manual_seed(0)
    d, x = StyleDiscriminator(8, 1, capacity=64, widest=8), torch.randn(8, 1, 8, 8)
    assert torch.allclose(d(x)[:4], d(x[:4]), atol=1e-6)
    assert not torch.allclose(d(x)[:2], d(x[:2]), atol=1e-6)


def test_five_images_are_groups_of_one() -> None:
    """Groups share an image count out evenly, and of 2, 3 and 4 none divides 5: nobody deviates."""
    torch.manual_seed(0)
    d, x = StyleDiscriminator(8, 1, capacity=64, widest=8), torch.randn(5, 1, 8, 8)
    assert torch.allclose(d(x), torch.cat([d(image) for image in x.split(1)]), atol=1e-6)


def test_r1_is_due_on_every_sixteenth_batch_and_weighs_as_much_more() -> None:
    d = nn.Sequential(nn.Flatten(), nn.Linear(4, 1), nn.Flatten(0))
    x = torch.rand(3, 1, 2, 2)
    due = 0.5 * 10 * 16 * float(d[1].weight.detach().square().sum())
    penalties = [float(Critic(d).penalty(x, seen).detach()) for seen in (0, 1, 15, 16, 17, 32)]
    assert penalties == pytest.approx([due, 0, 0, due, 0, due], rel=1e-5)


def test_logistic_losses_by_hand() -> None:
    zero = torch.zeros(4)
    assert float(discriminator_loss(zero, zero)) == pytest.approx(LN2)
    assert float(generator_loss(zero)) == pytest.approx(LN2)
    assert float(discriminator_loss(zero + 50, zero - 50)) == pytest.approx(0, abs=1e-6)
    assert float(generator_loss(zero - 3)) == pytest.approx(math.log(1 + math.exp(3)))
    assert float(discriminator_loss(zero - 1, zero + 2)) == pytest.approx(
        (math.log(1 + math.e) + math.log(1 + math.exp(2))) / 2
    )


def test_r1_of_a_linear_discriminator_is_its_squared_weights() -> None:
    d = nn.Sequential(nn.Flatten(), nn.Linear(4, 1), nn.Flatten(0))
    penalty = r1_penalty(d, torch.randn(3, 1, 2, 2))
    assert float(penalty.detach()) == pytest.approx(float(d[1].weight.detach().square().sum()), rel=1e-6)
    penalty.backward()
    assert torch.allclose(d[1].weight.grad, 2 * d[1].weight)
