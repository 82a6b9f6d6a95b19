"""The pointing game and overlap, by hand."""

from __future__ import annotations

import pytest
import torch

from modules.common.localisation import PointingGame, box_masks, enlarged, hits, overlap


def test_boxes_as_pixels() -> None:
    boxes = torch.tensor([[[1.0, 0.0, 3.0, 2.0], [0.0, 3.0, 4.0, 4.0]]])
    chosen = torch.tensor([[[True, False], [True, True], [False, False]]])
    masks = box_masks(boxes, chosen, (4, 4))
    assert masks.flatten(2).sum(2).tolist() == [[4, 8, 0]]
    assert masks[0, 0].nonzero().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert masks[0, 1, 3].all()


def test_a_map_hits_where_its_largest_value_is() -> None:
    maps = torch.tensor([[[[0.1, 0.9], [0.3, 0.2]], [[0.5, 0.5], [0.5, 0.5]]]])
    right = torch.tensor([[0, 1], [0, 0]], dtype=torch.bool)
    assert hits(maps, right.expand(1, 2, 2, 2)).tolist() == [[True, False]]  # of several, the first is at (0, 0)


def test_overlap_of_as_many_pixels() -> None:
    maps = torch.tensor([[[[0.9, 0.8], [0.1, 0.2]]]]).expand(1, 3, 2, 2)
    masks = torch.zeros(1, 3, 2, 2, dtype=torch.bool)
    masks[0, 0, 0] = True  # the two largest
    masks[0, 1, :, 0] = True  # one of them
    assert overlap(maps, masks)[0].tolist() == pytest.approx([1.0, 1 / 3, 0.0])


def test_a_random_map_hits_by_chance() -> None:
    """The hit rate of noise is the boxes' share of the image."""
    source = torch.Generator().manual_seed(0)
    masks = torch.zeros(4000, 1, 8, 8, dtype=torch.bool)
    masks[:, :, 2:5, 1:5] = True  # 12 of 64 pixels
    game = PointingGame()
    game.update(torch.rand(4000, 1, 8, 8, generator=source), masks)
    actual = game.compute()
    assert float(actual["chance"]) == pytest.approx(18.75)
    assert float(actual["pointing"]) == pytest.approx(18.75, abs=2.0)  # standard error 0.6


def test_only_objects_with_a_box_count() -> None:
    game = PointingGame()
    assert {name: float(value) for name, value in game.compute().items()} == dict.fromkeys(
        ("pointing", "chance", "overlap", "pairs"), 0.0
    )
    masks = torch.zeros(1, 2, 4, 4, dtype=torch.bool)
    masks[0, 1, 0, 0] = True
    maps = torch.zeros(1, 2, 2, 2)
    maps[0, 1, 0, 0] = 1.0
    game.update(maps, masks)
    actual = game.compute()
    assert float(actual["pairs"]) == 1
    assert float(actual["pointing"]) == 100
    assert float(actual["chance"]) == 6.25


def test_maps_are_enlarged_in_fp32() -> None:
    large = enlarged(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]], dtype=torch.bfloat16), (4, 4))
    assert large.dtype == torch.float32
    assert large[0, 0, 0].tolist() == [0.0, 0.25, 0.75, 1.0]


def test_every_image_has_boxes_of_its_own_and_one_pixel_is_enough() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 1.0, 1.0]], [[1.0, 1.0, 2.0, 2.0]]])
    masks = box_masks(boxes, torch.ones(2, 1, 1, dtype=torch.bool), (2, 3))
    assert masks.shape == (2, 1, 2, 3)
    assert masks.flatten(1).nonzero().tolist() == [[0, 0], [1, 4]]
    maps = torch.tensor([[[[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]], [[[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]])
    assert overlap(maps, masks).tolist() == [[1.0], [1.0]]


def test_overlap_is_left_out_where_it_is_not_asked_for() -> None:
    maps, masks = torch.rand(1, 1, 4, 4), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    values = {}
    for asked in (True, False):
        game = PointingGame(overlaps=asked)
        game.update(maps, masks)
        values[asked] = {name: float(value) for name, value in game.compute().items()}
    assert values[True] == {"pointing": 100.0, "chance": 100.0, "overlap": 100.0, "pairs": 1.0}
    assert values[False] == {**values[True], "overlap": 0.0}
