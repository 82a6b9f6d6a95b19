"""Spectra by hand and by numpy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.iformer.spectra import FLOOR, averaged, high_frequency, radial


def test_spectra_by_hand_and_by_numpy(random: Callable[..., Tensor]) -> None:
    ones, board = torch.ones(1, 8, 8, 1), torch.ones(1, 8, 8, 1)
    board[:, 1::2, ::2] = board[:, ::2, 1::2] = -1
    point = torch.zeros(1, 8, 8, 1)
    point[0, 3, 3] = 1
    bottom = math.log(FLOOR)
    assert float(high_frequency(radial(ones))) == pytest.approx(bottom - math.log(64), abs=1e-3)
    assert float(high_frequency(radial(board))) == pytest.approx(math.log(64) - bottom, abs=1e-3)
    assert float(high_frequency(radial(point))) == pytest.approx(0.0, abs=1e-5)
    assert float(high_frequency(radial(board + 5), 1)) == pytest.approx(math.log(64) - bottom, abs=1e-3)
    x = random(2, 7, 7, 3)
    log = np.log(np.abs(np.fft.fft2(x.numpy().astype(np.float64), axes=(1, 2)))).mean(-1)
    f = np.fft.fftfreq(7) * 7
    radius = np.round(np.hypot(f[:, None], f[None])).astype(int)
    expected = [[log[i][radius == r].mean() for r in range(radius.max() + 1)] for i in range(2)]
    assert np.allclose(radial(x).numpy(), expected, atol=1e-4)


def test_smoothing_a_map_lowers_its_high_frequencies(random: Callable[..., Tensor]) -> None:
    x = random(4, 14, 14, 6)
    smooth = F.avg_pool2d(F.pad(x.permute(0, 3, 1, 2), [1] * 4, mode="circular"), 3, 1).permute(0, 2, 3, 1)
    before, after = radial(x), radial(smooth)
    for base in (0, 1):
        assert bool((high_frequency(after, base) < high_frequency(before, base) - 0.5).all())
    assert torch.allclose(high_frequency(radial(5 * x)), high_frequency(before), atol=1e-4)  # size does not count


def test_cells_are_averaged_and_the_last_may_be_smaller() -> None:
    x = torch.arange(9.0).view(1, 3, 3, 1)
    assert averaged(x, 2).flatten().tolist() == [2.0, 3.5, 6.5, 8.0]
    assert averaged(x, 1) is x
