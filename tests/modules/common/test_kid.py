"""The kernel distance against hand values, torchmetrics and its own definition."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.image.kid import poly_mmd

from modules.common import kid
from modules.common.kid import kernel_distance


def test_hand_computed() -> None:
    """d = 1. Within: k(0, 1) = 1 and k(1, 2) = 27. Between: k(0, 1) = k(0, 2) = 1, k(1, 1) = 8, k(1, 2) = 27."""
    real, fake = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    assert kernel_distance(real, fake).item() == pytest.approx(1 + 27 - 2 * (1 + 1 + 8 + 27) / 4)


def test_torchmetrics_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kid, "ROWS", 7)
    torch.manual_seed(0)
    real, fake = torch.randn(40, 16), torch.randn(40, 16) * 1.2 + 0.3
    expected = poly_mmd(real.double(), fake.double())
    torch.testing.assert_close(kernel_distance(real, fake), expected, rtol=1e-10, atol=0)


def test_it_has_no_bias_at_small_numbers() -> None:
    """Of one distribution: as often below 0 as above, and 0 in the mean; a biased estimate is never negative."""
    torch.manual_seed(0)
    values = torch.stack([kernel_distance(torch.randn(10, 4), torch.randn(25, 4)) for _ in range(400)])
    assert abs(values.mean()) < 3 * values.std() / 20
    assert 0.3 < (values < 0).double().mean() < 0.8


def test_too_few_images_are_no_distance() -> None:
    assert kernel_distance(torch.ones(1, 2), torch.ones(5, 2)).isnan()
