"""SimCLR's augmentation against colorsys, torchvision and scipy, and what each image draws for itself."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from datamodules.common.base import Draws, Share
from datamodules.common.digits import Digits
from datamodules.common.simclr_augment import (
    ColorJitter,
    GaussianBlur,
    RandomGrey,
    SimCLRAugmentation,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    gaussian_blur,
    hsv_to_rgb,
    rgb_to_hsv,
)


def photos(count: int, side: int = 8, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def draws(count: int, seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), count, 0, count)


def test_hsv_is_that_of_colorsys_and_turns_back() -> None:
    x = photos(2)
    x[0, :, 0, 0] = 0.0  # black, white, grey and pure colours have no or a single hue
    x[0, :, 0, 1] = 1.0
    x[0, :, 0, 2] = 0.5
    x[0, :, 0, 3] = torch.tensor([0.0, 0.0, 1.0])
    pixels = x.permute(0, 2, 3, 1).reshape(-1, 3)
    expected = torch.tensor([colorsys.rgb_to_hsv(*p) for p in pixels.tolist()])
    assert torch.allclose(rgb_to_hsv(x).permute(0, 2, 3, 1).reshape(-1, 3), expected, atol=1e-5)
    assert torch.allclose(hsv_to_rgb(rgb_to_hsv(x)), x, atol=1e-5)


@pytest.mark.parametrize("turn", [-0.2, 0.05, 0.2])
def test_hue_is_that_of_torchvision(turn: float) -> None:
    x = photos(3)
    assert torch.allclose(adjust_hue(x, torch.full((3,), turn)), tv.adjust_hue(x, turn), atol=1e-5)


def test_brightness_contrast_and_saturation_by_hand() -> None:
    x = photos(2)
    assert torch.equal(adjust_brightness(x, torch.tensor([0.5, 2.0])), torch.stack([x[0] / 2, x[1] * 2]))
    flat = adjust_contrast(x, torch.tensor([0.0, 1.0]))
    assert torch.allclose(flat[0], x[0].mean((1, 2), keepdim=True).expand_as(x[0]))  # each channel's own mean
    assert torch.allclose(flat[1], x[1], atol=1e-6)
    red = torch.tensor([0.8, 0.4, 0.4]).view(1, 3, 1, 1)
    half, full = (adjust_saturation(red, torch.tensor([f])).flatten().tolist() for f in (0.5, 9.0))
    assert half == pytest.approx([0.8, 0.6, 0.6])  # value 0.8 stays, saturation 0.5 becomes 0.25
    assert full == pytest.approx([0.8, 0.0, 0.0], abs=1e-6)


def test_brightness_is_multiplied_not_added() -> None:
    """Grey images have no hue, saturation or contrast: black stays black, and the factor is 1 +- 0.8 s."""
    x = torch.full((4000, 3, 2, 2), 0.5)
    jittered = ColorJitter(0.5, p=1.0)(x, draws(4000))[:, 0, 0, 0] / 0.5
    assert float(jittered.min()) == pytest.approx(0.6, abs=0.01)
    assert float(jittered.max()) == pytest.approx(1.4, abs=0.01)
    assert float(jittered.mean()) == pytest.approx(1.0, abs=0.02)
    assert not ColorJitter(1.0, p=1.0)(torch.zeros(8, 3, 2, 2), draws(8)).any()


def test_each_image_has_its_own_coin_and_its_own_strengths() -> None:
    x = photos(1, 20).expand(500, -1, -1, -1)
    for operation, p in ((ColorJitter(1.0, 0.8), 0.8), (RandomGrey(0.2), 0.2), (GaussianBlur(0.5), 0.5)):
        changed = (operation(x, draws(500)) != x).flatten(1).any(1)
        assert float(changed.float().mean()) == pytest.approx(p, abs=0.06)
    assert len(ColorJitter(1.0, 1.0)(x, draws(500)).flatten(1).unique(dim=0)) == 500


def test_jitter_happens_in_every_order() -> None:
    """Contrast then brightness is clipped elsewhere than brightness then contrast: both orders occur, half each."""
    x = photos(2000, 4, channels=1)
    jitter = ColorJitter(1.0, p=1.0)
    source = draws(2000)
    source.uniform()
    order, factors = source.uniform(4).argsort(1), source.uniform(3, low=0.2, high=1.8)
    first = (adjust_brightness(x, factors[:, 0]).clamp(0, 1), adjust_contrast(x, factors[:, 1]).clamp(0, 1))
    both = (adjust_contrast(first[0], factors[:, 1]), adjust_brightness(first[1], factors[:, 0]))
    earlier = (order == 0).int().argmax(1) < (order == 1).int().argmax(1)
    expected = torch.where(earlier[:, None, None, None], both[0], both[1]).clamp(0, 1)
    assert torch.allclose(jitter(x, draws(2000)), expected)
    assert float(earlier.float().mean()) == pytest.approx(0.5, abs=0.05)


def test_grey_has_the_luma_on_all_channels() -> None:
    x = photos(3)
    assert torch.allclose(RandomGrey(1.0)(x, draws(3)), tv.rgb_to_grayscale(x, 3), atol=1e-5)
    one = photos(3, channels=1)
    assert torch.equal(RandomGrey(1.0)(one, draws(3)), one)


@pytest.mark.parametrize("radius", [1, 5])
def test_blur_is_scipys_correlation_with_zeros_outside(radius: int) -> None:
    x, sigma = photos(2, 12), torch.tensor([0.4, 1.7])
    ours = gaussian_blur(x, sigma, radius)
    for image, s, actual in zip(x.numpy(), sigma.tolist(), ours.numpy(), strict=True):
        kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * s**2))
        kernel /= kernel.sum()
        expected = correlate1d(correlate1d(image, kernel, axis=1, mode="constant"), kernel, axis=2, mode="constant")
        assert np.allclose(actual, expected, atol=1e-6)


def test_the_blur_kernel_has_a_tenth_of_the_height() -> None:
    """A point spreads over 23 pixels at 224, over 3 at 28 and 32."""
    for side, width in ((224, 23), (32, 3), (28, 3)):
        x = torch.zeros(1, 1, side, side)
        x[..., side // 2, side // 2] = 1
        blurred = GaussianBlur(1.0, (50.0, 50.0))(x, draws(1))
        assert int((blurred > 0).any(2).sum()) == width


@pytest.mark.parametrize("channels", [1, 3])
def test_images_stay_images(channels: int) -> None:
    x = photos(64, 28, channels)
    view = SimCLRAugmentation()(x, draws(64))
    assert view.shape == x.shape
    assert float(view.min()) >= 0
    assert float(view.max()) <= 1


def test_switched_off_it_is_the_identity() -> None:
    x = photos(8)
    assert torch.equal(SimCLRAugmentation(crop_scale=None, strength=0, flip=0, blur=0)(x, draws(8)), x)
    with pytest.raises(ValueError, match="strength=-1"):
        SimCLRAugmentation(strength=-1)


def test_a_batch_may_have_no_image_that_is_changed() -> None:
    """The coins of a single photo, as workers augment it, leave some operation without an image."""
    x = photos(1, 28)
    for seed in range(8):
        assert SimCLRAugmentation()(x, draws(1, seed)).shape == x.shape


def test_a_share_of_a_batch_is_augmented_as_in_the_whole() -> None:
    x = photos(10, 16)
    whole = SimCLRAugmentation()(x, Share(torch.arange(10), 10, 0, 7).generator())
    part = SimCLRAugmentation()(x[4:9], Share(torch.arange(4, 9), 10, 4, 7).generator())
    assert torch.allclose(part, whole[4:9], atol=1e-6)


def test_two_views_differ_and_come_again_with_the_seed() -> None:
    def batch() -> tuple[Tensor, Tensor]:
        data = Digits(16, train_size=64, test_size=16, views=2, augment=[SimCLRAugmentation()])
        data.setup()
        first = next(iter(data.train_dataloader()))
        return first.x, first.x2

    x, x2 = batch()
    assert not torch.equal(x, x2)
    assert all(torch.equal(a, b) for a, b in zip(batch(), (x, x2), strict=True))
