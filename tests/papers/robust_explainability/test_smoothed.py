"""Blurs and edges against references, and that a blur is chosen on other images than those it is measured on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from modules.robust_explainability.smoothed import SmoothedPointing, blur, central, edges


def test_edges_are_the_length_of_the_slope() -> None:
    """3 a row and 4 a column give 5; a step gives half its height on either side; channels add up."""
    rows, columns = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    plane = (3 * rows + 4 * columns)[None, None]
    assert torch.allclose(edges(plane), torch.full((1, 6, 7), 5.0))
    assert torch.allclose(edges(torch.cat([plane, -plane], 1)), torch.full((1, 6, 7), 10.0))

    step = (columns >= 3).float()[None, None]
    assert torch.equal(edges(step)[0, 2], torch.tensor([0, 0, 0.5, 0.5, 0, 0, 0]))


def test_the_middle_is_the_largest_and_corners_are_nothing() -> None:
    """Of 5 x 3 pixels a corner is sqrt(2^2 + 1^2) away."""
    (near,) = central(torch.zeros(1, 2, 5, 3))
    assert float(near[2, 1]) == pytest.approx(5**0.5)
    assert float(near[1, 1]) == pytest.approx(5**0.5 - 1)
    assert [float(near[row, column]) for row in (0, 4) for column in (0, 2)] == pytest.approx([0] * 4)


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_blur_is_scipys(sigma: float) -> None:
    maps = torch.rand(2, 20, 24, generator=torch.Generator().manual_seed(0))
    expected = np.stack([gaussian_filter(one, sigma, mode="mirror", truncate=3.0) for one in maps.double().numpy()])
    assert torch.allclose(blur(maps, sigma).double(), torch.from_numpy(expected), atol=1e-5)


def test_no_blur_and_a_blur_wider_than_the_map() -> None:
    maps = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(blur(maps, 0), maps)
    assert torch.allclose(blur(torch.ones(1, 8, 8), 6.0), torch.ones(1, 8, 8), atol=1e-5)
    assert float(blur(maps, 6.0).std()) < 0.2 * float(maps.std())
    flat = torch.ones(1, 4, 30)  # lower than the kernel and wider
    assert torch.allclose(blur(flat, 6.0), flat, atol=1e-5)
    assert torch.allclose(blur(flat.mT, 6.0), flat.mT, atol=1e-5)


def hill_and_speck(count: int) -> Tensor:
    """Maps with a broad hill of height 1 around (12, 12) and one pixel of 2 at (2, 2): a blur finds the hill."""
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij")
    hill = (-((rows - 12) ** 2 + (columns - 12) ** 2) / 18).exp()
    hill[2, 2] = 2
    return hill.expand(count, 20, 20)


def box(top: int, left: int, count: int) -> Tensor:
    masks = torch.zeros(count, 1, 20, 20, dtype=torch.bool)
    masks[:, :, top : top + 5, left : left + 5] = True
    return masks


def test_the_blur_is_chosen_on_the_images_to_tune_on() -> None:
    """The object is the hill in those; in measured ones it is the hill in two of three, else the speck."""
    metric = SmoothedPointing([0, 2, 3])
    metric.update(hill_and_speck(2), box(10, 10, 2), torch.tensor([0, 0]))
    metric.update(hill_and_speck(3), torch.cat([box(10, 10, 2), box(0, 0, 1)]), torch.tensor([1, 1, 1]))
    values = metric.compute()
    assert float(values["pointing"]) == pytest.approx(200 / 3)
    assert float(values["sigma"]) == 2  # the first of two that hit as often

    metric = SmoothedPointing([0, 2, 3])
    metric.update(hill_and_speck(2), box(0, 0, 2), torch.tensor([0, 0]))
    metric.update(hill_and_speck(3), torch.cat([box(10, 10, 2), box(0, 0, 1)]), torch.tensor([1, 1, 1]))
    values = metric.compute()
    assert float(values["pointing"]) == pytest.approx(100 / 3)
    assert float(values["sigma"]) == 0


def test_nothing_to_tune_on_gives_nothing() -> None:
    metric = SmoothedPointing([0, 2])
    metric.update(hill_and_speck(1), box(10, 10, 1), torch.tensor([1]))
    assert {name: float(value) for name, value in metric.compute().items()} == {"pointing": 0, "sigma": 0}
