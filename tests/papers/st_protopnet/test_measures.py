"""Measures by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.st_protopnet.measures import area, deletion_auc, heat_in_mask, heat_maps, margin, share_inside


def test_heat_beside_a_mask_by_hand() -> None:
    values = heat_in_mask(torch.tensor([[[1.0, 0.2], [0.6, 0.0]]]), torch.tensor([[[True, True], [False, False]]]))
    assert float(values["iou"]) == pytest.approx(1 / 3)
    assert float(values["ch"]) == pytest.approx(0.6)
    assert float(values["oirr"]) == pytest.approx(0.5)


def test_area_by_hand() -> None:
    assert area(torch.tensor([[1.0, 0.5, 0.25], [1.0, 1.0, 1.0]])).tolist() == [0.5625, 1.0]


def test_margins_by_hand() -> None:
    assert margin(torch.tensor([[3.0, 1.0, 2.5], [0.0, 0.0, -1.0]])).tolist() == [0.5, 0.0]


def test_heat_is_stretched() -> None:
    heat = heat_maps(torch.tensor([[[3.0, 5.0], [4.0, 3.0]], [[2.0, 2.0], [2.0, 2.0]]]), 8)
    assert heat.shape == (2, 8, 8)
    assert float(heat[0].min()) == 0.0
    assert float(heat[0].max()) == 1.0
    assert not heat[1].any()


def test_a_patch_inside_a_mask_and_outside() -> None:
    maps = torch.zeros(2, 8, 8)
    maps[0, 1, 1] = maps[1, 6, 6] = 1.0
    mask = torch.zeros(2, 64, 64, dtype=torch.bool)
    mask[:, :32, :32] = True
    assert share_inside(maps, mask).tolist() == [1.0, 0.0]


def test_deletion_takes_the_hottest_pixels_first() -> None:
    """The class is present as long as one corner is."""

    def probabilities(x: Tensor) -> Tensor:
        present = (x[:, 0, 0, 0] > 0).float()
        return torch.stack([present, 1 - present], 1)

    x = torch.ones(2, 3, 4, 4)
    heat = torch.zeros(2, 4, 4)
    heat[0, 0, 0] = 1.0  # gone at once
    heat[1, 0, 0] = -1.0  # gone at last
    assert deletion_auc(probabilities, x, heat, 4).tolist() == [0.125, 0.875]
