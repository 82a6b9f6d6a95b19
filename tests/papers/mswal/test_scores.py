"""Dice and region F1 against hand-computed values and MONAI."""

from __future__ import annotations

import pytest
import torch
from monai.metrics import compute_dice
from torch import Tensor

from modules.mswal.scores import SegmentationScores, dice_per_class, region_matches
from tests.papers.mswal.helpers import labels, one_hot


def test_dice_by_hand() -> None:
    reference = torch.tensor([0, 0, 1, 1, 1, 2])
    prediction = torch.tensor([0, 1, 1, 1, 0, 3])
    dice = dice_per_class(prediction, reference, 5)
    assert dice[:3].tolist() == pytest.approx([2 * 2 / (2 * 2 + 1 + 1), 0, 0])
    assert bool(dice[3].isnan())  # in neither


def test_dice_agrees_with_monai_up_to_its_convention_for_empty_classes() -> None:
    for seed in range(5):
        reference, prediction = labels(9, 8, 7, seed=seed), labels(9, 8, 7, seed=seed + 50)
        reference[reference == 1] = 0  # predicted but not there
        if seed % 2:
            for label in (reference, prediction):
                label[label == 2] = 0  # in neither
        ours = dice_per_class(prediction, reference, 4)
        pair = one_hot(prediction[None]), one_hot(reference[None])
        ignored, counted = (
            compute_dice(*pair, include_background=False, ignore_empty=ignore)[0].double() for ignore in (True, False)
        )
        assert torch.allclose(ours[2], ignored[2], atol=1e-6)
        assert float(ours[0]) == float(counted[0]) == 0
        assert bool(ignored[0].isnan())
        if seed % 2:
            assert bool(ours[1].isnan())
            assert bool(ignored[1].isnan())
            assert float(counted[1]) == 1
        else:
            assert torch.allclose(ours[1], ignored[1], atol=1e-6)


def cube(*corners: tuple[int, int, int], side: int = 3, size: int = 16) -> Tensor:
    label = torch.zeros(size, size, size, dtype=torch.long)
    for z, y, x in corners:
        label[z : z + side, y : y + side, x : x + side] = 1
    return label


def test_one_blob_over_two_lesions_finds_both_at_any_overlap_and_at_most_one_at_half() -> None:
    reference = cube((2, 2, 2), (2, 2, 7))
    prediction = reference.clone()
    prediction[2:5, 2:5, 2:10] = 1
    counts = region_matches(prediction, reference, 2, [0.0, 0.5])
    assert counts[0, 0].tolist() == [2, 0, 0]
    assert counts[1, 0].tolist() == [0, 1, 2]  # 27 of 72 voxels each


def test_regions_touching_at_a_corner_are_one() -> None:
    both = cube((2, 2, 2), (5, 5, 5))
    assert region_matches(both, both, 2, [0.5])[0, 0].tolist() == [1, 0, 0]
    assert region_matches(cube((2, 2, 2), (9, 9, 9)), both, 2, [0.1])[0, 0].tolist() == [1, 1, 0]


def test_the_threshold_is_on_the_overlap_over_the_union() -> None:
    reference, prediction = cube((2, 2, 2)), cube((2, 2, 4))  # 9 of 45 voxels
    thresholds = [0.0, 0.1, 0.199, 0.2, 0.5]
    counts = region_matches(prediction, reference, 2, thresholds)[:, 0]
    assert counts.tolist() == [[1, 0, 0]] * 3 + [[0, 1, 1]] * 2


def test_wrong_class_and_empty_cases() -> None:
    other = cube((2, 2, 2)) * 2
    counts = region_matches(other, cube((2, 2, 2)), 3, [0.1])[0]
    assert counts.tolist() == [[0, 0, 1], [0, 1, 0]]
    empty = torch.zeros(4, 4, 4, dtype=torch.long)
    assert region_matches(empty, empty, 3, [0.1]).abs().sum() == 0


def test_scores_average_cases_then_classes_and_pool_regions() -> None:
    cases = [(labels(8, 8, 8, classes=3, seed=s), labels(8, 8, 8, classes=3, seed=s + 9)) for s in range(4)]
    for label in cases[0]:
        label[label == 2] = 0  # the first case has no class 2
    scores = SegmentationScores(3, [0.1])
    parts = [SegmentationScores(3, [0.1]) for _ in range(2)]
    for number, case in enumerate(cases):
        scores.update(*case)
        parts[number % 2].update(*case)
    actual = scores.compute()
    each = torch.stack([dice_per_class(*case, 3) for case in cases])
    assert torch.allclose(actual["dice"], each.nanmean(0))
    assert torch.allclose(actual["dice"][1], each[1:, 1].mean())
    counts = torch.stack([region_matches(*case, 3, [0.1]) for case in cases]).sum(0)[0]
    assert torch.allclose(actual["f1"][0], 2 * counts[:, 0] / (2 * counts[:, 0] + counts[:, 1] + counts[:, 2]))
    assert int(actual["n"]) == 4
    assert torch.allclose(parts[0].dice_sum + parts[1].dice_sum, scores.dice_sum)  # what two processes add up
    assert torch.equal(parts[0].regions + parts[1].regions, scores.regions)
