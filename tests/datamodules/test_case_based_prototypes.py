"""Elastic deformation: scipy's numbers, limit cases, and that a batch may be shared out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from datamodules.case_based_prototypes import ElasticDeformation, displace, gaussian_matrix
from datamodules.common.base import Batches, Draws, Share


def noise(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 2, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def draws(count: int, seed: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), count, 0, count)


@pytest.mark.parametrize("sigma", [0.7, 1.3, 4.0])
@pytest.mark.parametrize("size", [(28, 28), (9, 17)])
def test_displacements_are_those_of_scipys_filter(sigma: float, size: tuple[int, int]) -> None:
    drawn = noise(6, *size)
    ours = ElasticDeformation(sigma, alpha=20.0).displacement(drawn)
    for image, displaced in zip(drawn.double().numpy(), ours.numpy(), strict=True):
        for field, smooth in zip(image, displaced, strict=True):
            assert np.allclose(smooth, 20 * gaussian_filter(field, sigma, mode="constant"), atol=2e-5)


@pytest.mark.parametrize("scale", [0.8, 6.0])  # the second sends many pixels outside
def test_resampling_is_that_of_scipys_map_coordinates(scale: float) -> None:
    images = torch.rand(8, 1, 28, 20, generator=torch.Generator().manual_seed(1))
    moved = noise(8, 28, 20) * scale
    ours = displace(images, moved)
    rows, columns = np.mgrid[0:28, 0:20]
    for image, (down, across), displaced in zip(images[:, 0].numpy(), moved.numpy(), ours[:, 0].numpy(), strict=True):
        expected = map_coordinates(image, (rows + down, columns + across), order=1)
        assert np.allclose(displaced, expected, atol=1e-5)


def test_the_whole_operation_is_the_published_loop_over_images() -> None:
    images = torch.rand(10, 1, 28, 28, generator=torch.Generator().manual_seed(2))
    ours = ElasticDeformation(4.0, 20.0)(images, draws(10, seed=5))
    drawn = draws(10, seed=5).uniform(2, 28, 28, low=-1.0, high=1.0).numpy()
    x, y = np.mgrid[0:28, 0:28]
    for index, (first, second) in enumerate(drawn):
        dx = gaussian_filter(first, 4, mode="constant") * 20
        dy = gaussian_filter(second, 4, mode="constant") * 20
        expected = map_coordinates(images[index, 0].numpy(), (x + dx, y + dy), order=1)
        assert np.allclose(ours[index, 0].numpy(), expected, atol=1e-4)


def test_alpha_zero_is_the_identity() -> None:
    images = torch.rand(5, 3, 13, 28, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(ElasticDeformation(4.0, 0.0)(images, draws(5)), images, atol=1e-5)


def test_a_whole_pixel_shifts_and_what_comes_from_outside_is_zero() -> None:
    image = torch.arange(1.0, 10.0).view(1, 1, 3, 3)
    down = torch.zeros(1, 2, 3, 3)
    down[:, 0] = 1.0
    assert torch.allclose(displace(image, down)[0, 0], torch.tensor([[4.0, 5, 6], [7, 8, 9], [0, 0, 0]]), atol=1e-5)
    beyond = torch.full((1, 2, 3, 3), -0.25)  # the first row and column lie a quarter of a pixel outside
    displaced = displace(image, beyond)[0, 0]
    assert not displaced[0].any()
    assert not displaced[:, 0].any()
    assert float(displaced[1, 1]) == pytest.approx(5 - 0.25 - 0.75, abs=1e-5)


def test_displacement_away_from_the_border() -> None:
    """Std of uniform noise, 1 / sqrt 3, times the norm of a two-dimensional Gaussian kernel, 1 / (2 sqrt(pi) sigma)."""
    fields = ElasticDeformation(4.0, 20.0).displacement(noise(400, 28, 28))
    expected = 20 / math.sqrt(3) / (2 * math.sqrt(math.pi) * 4)
    assert expected == pytest.approx(0.81, abs=0.005)
    assert float(fields[:, :, 14, 14].std()) == pytest.approx(expected, rel=0.1)
    assert float(fields[:, :, 0, 0].std()) < 0.6 * expected  # zeros outside hold the corners


def test_the_filter_keeps_a_constant_in_the_middle_and_not_at_the_border() -> None:
    matrix = gaussian_matrix(40, 2.0)
    assert torch.allclose(matrix.sum(1)[8:-8], torch.ones(24, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float(matrix.sum(1)[0]) < 0.65
    assert torch.equal(matrix, matrix.T)


def test_channels_move_together() -> None:
    grey = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(4))
    moved = ElasticDeformation()(grey.expand(-1, 3, -1, -1), draws(4))
    assert torch.equal(moved[:, 0], moved[:, 2])


def test_an_image_is_moved_alike_however_the_batch_is_shared_out() -> None:
    images = torch.rand(12, 1, 28, 28, generator=torch.Generator().manual_seed(6))

    def moved(share: Share) -> torch.Tensor:
        return ElasticDeformation()(images[share.indices], share.generator())

    (whole,) = (moved(share) for share in Batches(12, 12, shuffle=True, seed=1))
    shares = [moved(share) for rank in range(2) for share in Batches(12, 12, shuffle=True, seed=1, rank=rank, world=2)]
    assert torch.allclose(whole, torch.cat(shares), atol=1e-6)


def test_sigma_must_be_positive() -> None:
    with pytest.raises(ValueError, match="sigma=0: expected a positive"):
        ElasticDeformation(sigma=0)


def test_images_are_moved_on_their_own_device() -> None:
    """The meta device holds shapes alone, and refuses what lies elsewhere."""
    images = torch.zeros(3, 1, 9, 7, device="meta")
    assert displace(images, torch.zeros(3, 2, 9, 7, device="meta")).shape == (3, 1, 9, 7)
