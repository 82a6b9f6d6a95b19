"""Hand-made features against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from modules.off_the_shelf.handmade import HOG, Histogram, Joined, Pixels


def test_a_ramp_votes_for_one_angle() -> None:
    """Brightness grows to the right by 0.01 a pixel: gradient 0.02 at 0 degrees, between the first bin (centred at 10
    degrees) and the last (at 170). The first and last column have half the difference."""
    ramp = (torch.arange(8.0) * 0.01).expand(1, 1, 8, 8)
    cells = HOG(cell=8, bins=9).cells(ramp)[0, :, 0, 0]
    total = 8 * (6 * 0.02 + 2 * 0.01)
    assert cells[[0, 8]].tolist() == pytest.approx([total / 2, total / 2], rel=1e-4)
    assert float(cells[1:8].abs().max()) == pytest.approx(0, abs=1e-6)
    upright = HOG(cell=8, bins=9).cells(ramp.mT)[0, :, 0, 0]
    assert float(upright[4]) == pytest.approx(total, rel=1e-4)  # 90 degrees is the centre of the fifth


def test_unsigned_gradients_do_not_know_dark_from_bright() -> None:
    x = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(HOG(cell=4)(x), HOG(cell=4)(1 - x), atol=1e-4)


def test_the_strongest_channel_counts() -> None:
    strong = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(HOG()(torch.cat([0.1 * strong, strong, 0.5 * strong], 1)), HOG()(strong), atol=1e-5)


def test_size_and_blocks() -> None:
    x = torch.rand(3, 3, 28, 30, generator=torch.Generator().manual_seed(0))
    actual = HOG(cell=4)(x)
    assert actual.shape == (3, 6 * 6 * 4 * 9)
    blocks = actual.view(3, 36, 36)  # (B, block^2 bins, blocks)
    assert torch.allclose(blocks.norm(dim=1), torch.ones(3, 36), atol=1e-5)
    with pytest.raises(ValueError, match="cell=16"):
        HOG(cell=16)(x)


def test_clipping_by_hand() -> None:
    """One orientation in one cell of a block: (1, 0, ...) is cut to 0.2 and normalised back to 1."""
    x = torch.zeros(1, 1, 16, 16)
    x[..., 2:6, 3:] = 1.0
    actual = HOG(cell=8)(x)
    assert float(actual.max()) <= 1.0
    assert float(actual.norm()) == pytest.approx(1)
    assert float(HOG(cell=8)(torch.zeros(1, 1, 16, 16)).abs().max()) == 0  # no gradient, no direction, no NaN


def test_histogram_by_hand() -> None:
    x = torch.tensor([0.0, 0.1, 0.6, 1.0]).view(1, 1, 2, 2)
    assert Histogram(2)(x)[0].tolist() == pytest.approx([math.sqrt(0.5), math.sqrt(0.5)])
    colours = torch.stack([torch.ones(2, 2), torch.zeros(2, 2)])[None]
    assert Histogram(2)(colours)[0].tolist() == [0, 1, 0, 0]  # bin 1 of the first channel, bin 0 of the second
    assert Histogram(4)(torch.rand(5, 3, 7, 7)).norm(dim=1).tolist() == pytest.approx([1] * 5)
    grey = torch.full((1, 3, 2, 2), 0.5)
    mixed = torch.stack([torch.full((2, 2), v) for v in (0.25, 0.5, 0.75)])[None]  # the same mean
    assert torch.equal(Histogram(4, grey=True)(mixed), Histogram(4, grey=True)(grey))
    assert Histogram(4, grey=True)(mixed).tolist() == [[0, 0, 1, 0]]


def test_pixels() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert Pixels()(x).tolist() == [list(range(16))]
    assert Pixels(2)(x).tolist() == [[2.5, 4.5, 10.5, 12.5]]


def test_parts_stand_side_by_side_at_unit_length() -> None:
    x = 3 * torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    parts = [HOG(cell=4), Pixels(2), Pixels()]
    actual = Joined(parts)(x)
    expected = [part(x) / part(x).norm(dim=1, keepdim=True) for part in parts]
    assert torch.allclose(actual, torch.cat(expected, 1), atol=1e-5)
    assert actual.norm(dim=1).tolist() == pytest.approx([math.sqrt(3)] * 2)
