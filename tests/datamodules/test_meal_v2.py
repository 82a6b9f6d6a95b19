"""Rotated, scaled and shifted digits, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.base import Draws
from datamodules.meal_v2 import RandomAffine


class Highest(Draws):
    """Draws the upper end of each range."""

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        assert low <= high
        return torch.full((self.count, *shape), high)


class Lowest(Draws):
    """Draws the lower end of each range."""

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return torch.full((self.count, *shape), low)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def draws(kind: type[Draws] = Draws) -> Draws:
    return kind(torch.Generator().manual_seed(1), 3, 0, 3)


def test_nothing_asked_changes_nothing(images: Tensor) -> None:
    assert torch.allclose(RandomAffine()(images, draws()), images, atol=1e-6)


def test_a_quarter_turn_is_numpys(images: Tensor) -> None:
    turn = RandomAffine(rotation=math.pi / 2)
    assert torch.allclose(turn(images, draws(Highest)), images.rot90(1, (2, 3)), atol=1e-5)
    assert torch.allclose(turn(images, draws(Lowest)), images.rot90(-1, (2, 3)), atol=1e-5)


def test_twice_the_size_shows_the_middle(images: Tensor) -> None:
    larger = F.interpolate(images, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(RandomAffine(scale=(2.0, 2.0))(images, draws()), larger[..., 4:12, 4:12], atol=1e-5)


def test_the_ends_of_the_range_of_sizes(images: Tensor) -> None:
    between = RandomAffine(scale=(0.5, 2.0))
    assert torch.allclose(between(images, draws(Highest)), RandomAffine(scale=(2.0, 2.0))(images, draws()), atol=1e-6)
    assert torch.allclose(between(images, draws(Lowest)), RandomAffine(scale=(0.5, 0.5))(images, draws()), atol=1e-6)


def test_a_shift_is_a_share_of_half_the_side_and_zero_comes_in(images: Tensor) -> None:
    """0.5 of half of 8 pixels: 2."""
    move = RandomAffine(shift=0.5)
    up_left, down_right = torch.zeros_like(images), torch.zeros_like(images)
    up_left[..., :6, :6] = images[..., 2:, 2:]
    down_right[..., 2:, 2:] = images[..., :6, :6]
    assert torch.allclose(move(images, draws(Highest)), up_left, atol=1e-5)
    assert torch.allclose(move(images, draws(Lowest)), down_right, atol=1e-5)


def test_rows_and_columns_are_shifted_by_draws_of_their_own(images: Tensor) -> None:
    """The first of the two is that of the columns."""

    class Right(Draws):
        def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
            values = torch.full((self.count, *shape), (low + high) / 2)
            if shape:
                values[:, 0] = high
            return values

    expected = torch.zeros_like(images)
    expected[..., :6] = images[..., 2:]
    assert torch.allclose(RandomAffine(shift=0.5)(images, draws(Right)), expected, atol=1e-5)


def test_each_image_has_its_own_draws(images: Tensor) -> None:
    same = images[:1].expand(3, -1, -1, -1)
    moved = RandomAffine(rotation=0.5, scale=(0.8, 1.2), shift=0.2)(same, draws())
    assert not any(torch.allclose(moved[a], moved[b], atol=1e-3) for a, b in ((0, 1), (0, 2), (1, 2)))
