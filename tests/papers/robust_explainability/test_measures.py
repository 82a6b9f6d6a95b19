"""Curves, boxes and the pointing game by hand (the sheet's checks 7, 8 and 10)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch import Tensor, nn

from modules.common.localisation import PointingGame, box_masks
from modules.robust_explainability.curves import Curves, area, blur_kernel, blurred
from modules.robust_explainability.explain import energy_inside, matching_scale, random_maps
from modules.robust_explainability.localisation import Localisation, dilated, largest_box, overlap


def test_areas_by_hand() -> None:
    curves = torch.tensor([[1.0, 1, 1, 1], [1, 2 / 3, 1 / 3, 0], [0, 1, 1, 1]])
    assert area(curves).tolist() == pytest.approx([1, 0.5, 5 / 6])


class Left(nn.Module):
    """Class 0 by how much of the left half is bright; what is blurred is not."""

    def forward(self, x: Tensor) -> Tensor:
        z = x[:, 0, :, : x.shape[3] // 2].relu().mean((1, 2))
        return torch.stack([z, -z], 1)


@pytest.fixture
def scene() -> tuple[Tensor, Tensor, Tensor]:
    x = 3 * torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    maps = torch.zeros(2, 12, 12)
    maps[:, :, :6] = 1.0
    return x, torch.zeros(2, dtype=torch.long), maps + 0.01 * torch.rand(2, 12, 12)


def test_curves_begin_and_end_where_they_should(scene: tuple[Tensor, Tensor, Tensor]) -> None:
    x, y, maps = scene
    network = Left()
    insertion, deletion = Curves(steps=12, at_once=5)(network, x, y, maps)
    assert insertion.shape == deletion.shape == (2, 1, 13)
    p = network(x).softmax(1)[:, 0]
    assert torch.allclose(deletion[:, 0, 0], p)
    assert torch.allclose(insertion[:, 0, -1], p)
    assert torch.allclose(deletion[:, 0, -1], torch.full((2,), 0.5))  # nothing but the mean is left
    assert torch.allclose(deletion[:, 0, 6], torch.full((2,), 0.5))  # the left half comes first


def test_a_good_order_beats_its_reverse(scene: tuple[Tensor, Tensor, Tensor]) -> None:
    x, y, maps = scene
    insertion, deletion = (area(c)[:, 0] for c in Curves(steps=12)(Left(), x, y, maps))
    worst_insertion, worst_deletion = (area(c)[:, 0] for c in Curves(steps=12)(Left(), x, y, -maps))
    assert (insertion > worst_insertion).all()
    assert (deletion < worst_deletion).all()


def test_the_blur_is_rises() -> None:
    """Values of a pulse that scipy blurs within 11 pixels; on a constant picture what zeros beyond the edges leave."""
    kernel = blur_kernel(11, 5.0)
    assert [float(kernel[i, j]) for i, j in ((5, 5), (0, 5), (0, 0))] == pytest.approx(
        [0.00883, 0.00827, 0.00774], abs=5e-6
    )
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-5)

    constant = blurred(torch.ones(1, 3, 40, 40), 11, 5.0)[0]
    assert torch.allclose(constant[0], constant[2])
    assert [float(constant[1, i, j]) for i, j in ((20, 20), (0, 20), (0, 0))] == pytest.approx(
        [1, 0.55, 0.30], abs=0.006
    )

    x = torch.randn(2, 3, 16, 20)
    for row, channel in ((0, 0), (1, 2)):
        expected = convolve2d(x[row, channel].numpy(), kernel.numpy(), mode="same")  # zeros beyond the edges
        assert torch.allclose(blurred(x, 11, 5.0)[row, channel], torch.from_numpy(expected), atol=1e-6)


def test_bad_curves_are_named() -> None:
    with pytest.raises(ValueError, match="steps=0: expected 1 or more"):
        Curves(steps=0)
    with pytest.raises(ValueError, match="blur=10: expected an odd number"):
        Curves(blur=10)


def test_steps_share_out_all_pixels() -> None:
    """224 steps of a 224 x 224 image are 224 pixels each."""
    assert torch.equal(torch.arange(225) * 224 * 224 // 224, 224 * torch.arange(225))


def test_confidence_alone_moves_both_areas(scene: tuple[Tensor, Tensor, Tensor]) -> None:
    """The sheet's check 10: half the logits lower the areas of a confident network, whose map is the same."""
    x, y, maps = scene
    insertion, deletion = (area(c) for c in Curves(steps=12)(Left(), x, y, maps, (1.0, 0.5)))
    assert (insertion[:, 1] < insertion[:, 0]).all()
    assert (deletion[:, 1] < deletion[:, 0]).all()


def test_the_factor_that_matches_a_confidence() -> None:
    logits = 3 * torch.randn(200, 5, generator=torch.Generator().manual_seed(1))
    own = float((0.25 * logits).softmax(1).amax(1).mean())
    assert matching_scale(logits, own) == pytest.approx(0.25, rel=1e-3)
    assert matching_scale(logits, 2.0) == pytest.approx(64, rel=1e-3)  # out of reach: the end of the range


def test_largest_box_by_hand() -> None:
    bright = np.zeros((6, 8), bool)
    bright[0, 0:2] = True
    bright[2:5, 3:7] = True
    bright[5, 7] = True  # touches at a corner alone
    assert largest_box(bright) == (3, 2, 7, 5)
    assert largest_box(np.zeros((4, 4), bool)) == (0, 0, 0, 0)
    assert overlap((3, 2, 7, 5), torch.tensor([[3.0, 2, 7, 5], [0, 0, 0, 0]])) == pytest.approx(1)
    assert overlap((0, 0, 2, 2), torch.tensor([[1.0, 1, 3, 3]])) == pytest.approx(1 / 7)
    assert overlap((0, 0, 4, 4), torch.tensor([[1.0, 1, 3, 3]])) == pytest.approx(4 / 16)  # a whole image: area share


def test_thresholds_are_chosen_on_other_images() -> None:
    """Tuning images want 0.8 (their map has a wide glow), test images any: what they show must not choose."""
    box = torch.tensor([[[2.0, 2, 6, 6]]])
    glow = torch.full((1, 12, 12), 0.75)
    glow[:, 2:6, 2:6] = 1.0
    glow[0, 11, 11] = 0.0
    metric = Localisation()
    metric.update(glow, box, torch.zeros(1, dtype=torch.long))
    faint = torch.full((1, 12, 12), 0.0)
    faint[:, 2:6, 2:6] = 0.5
    faint[0, 2, 2] = 1.0
    metric.update(faint, box, torch.ones(1, dtype=torch.long))
    values = metric.compute()
    assert float(values["threshold"]) == pytest.approx(0.8)
    assert float(values["wsl"]) == 0  # at 0.5 it would be right
    metric.reset()
    metric.update(faint, box, torch.ones(1, dtype=torch.long))
    assert float(metric.compute()["wsl"]) == 0  # nothing to tune on


def test_a_pixel_at_the_threshold_belongs_to_the_bright_region() -> None:
    """A box half as bright as the map's one peak, at a threshold of a half: with the peak alone it would be missed."""
    box = torch.tensor([[[2.0, 2, 6, 6]]])
    level = torch.zeros(1, 12, 12)
    level[:, 2:6, 2:6] = 0.5
    level[0, 2, 2] = 1.0
    metric = Localisation([0.5])
    for in_test in (0, 1):
        metric.update(level, box, torch.full((1,), in_test))
    assert float(metric.compute()["wsl"]) == 100


def test_a_map_that_is_the_box_is_right_everywhere() -> None:
    boxes = torch.tensor([[[3.0, 1, 9, 7]], [[0.0, 0, 4, 4]]])
    masks = box_masks(boxes, torch.ones(2, 1, 1, dtype=torch.bool), (12, 12))
    game, box = PointingGame(overlaps=False), Localisation()
    game.update(masks.float(), masks)
    for in_test in (0, 1):
        box.update(masks[:, 0].float(), boxes, torch.full((2,), in_test))
    assert float(game.compute()["pointing"]) == 100
    assert float(game.compute()["chance"]) == pytest.approx(100 * (36 + 16) / 2 / 144)
    assert float(box.compute()["wsl"]) == 100
    assert energy_inside(masks[:, 0].float(), masks[:, 0]).tolist() == [100, 100]


def test_random_maps_hit_by_chance_and_belong_to_their_row() -> None:
    rows = torch.arange(3000)
    maps = random_maps(rows, (10, 10), seed=3)
    masks = torch.zeros(3000, 1, 10, 10, dtype=torch.bool)
    masks[:, :, 2:7, 1:5] = True
    game = PointingGame(overlaps=False)
    game.update(maps[:, None], masks)
    assert float(game.compute()["pointing"]) == pytest.approx(20, abs=2.5)
    assert torch.equal(random_maps(torch.tensor([7]), (10, 10), 3)[0], maps[7])
    assert not torch.equal(random_maps(torch.tensor([7]), (10, 10), 4)[0], maps[7])


def test_tolerance_is_a_disc() -> None:
    mask = torch.zeros(1, 1, 40, 40, dtype=torch.bool)
    mask[0, 0, 20, 20] = True
    near: Any = dilated(mask, 15.0)[0, 0]
    for dy, dx in ((0, 15), (9, 12), (15, 0)):
        assert near[20 + dy, 20 + dx]
    assert not near[20 + 11, 20 + 11]
    assert torch.equal(dilated(mask, 0.0), mask)
