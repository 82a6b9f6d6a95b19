"""The threshold on one number by hand."""

from __future__ import annotations

import pytest
import torch

from modules.common.sharpness import energy, threshold


def test_a_threshold_by_hand() -> None:
    values = torch.tensor([1.0, 2, 3, 10, 11])
    cut, side = threshold(values, torch.tensor([0, 0, 0, 1, 1]))
    assert (cut, side) == (6.5, 1)
    cut, side = threshold(values, torch.tensor([1, 1, 0, 0, 0]))
    assert (cut, side) == (2.5, -1)


def test_a_flat_picture_has_the_least_energy() -> None:
    assert float(energy(torch.zeros(1, 3, 4, 4))) == pytest.approx(-18.42, abs=0.01)  # ln 1e-8
    assert float(energy(torch.rand(1, 3, 4, 4))) > -5
