"""Loss, sliding window and metrics of segmentation against hand-computed values and MONAI."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import DiceCELoss
from monai.metrics import compute_dice
from torch import Tensor, nn
from torch.nn import functional as F

from modules.mswal.segmentation import (
    SegmentationScores,
    deep_supervision_weights,
    deeply_supervised,
    dice_ce,
    dice_per_class,
    flips,
    gaussian_window,
    region_matches,
    resampled_labels,
    sliding_window,
    soft_dice,
    window_starts,
)


def labels(*shape: int, classes: int = 4, seed: int = 0) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


def one_hot(label: Tensor, classes: int = 4) -> Tensor:
    return F.one_hot(label, classes).movedim(-1, 1)


# --- loss ------------------------------------------------------------------------------------------------------------


def test_loss_of_two_voxels() -> None:
    total, ce, dice = dice_ce(torch.zeros(1, 2, 2), torch.tensor([[0, 1]]))
    assert float(dice) == pytest.approx(0.5000025, abs=1e-6)
    assert float(ce) == pytest.approx(math.log(2), abs=1e-6)
    assert float(total) == pytest.approx(0.193145, abs=1e-5)


def test_a_perfect_and_sure_prediction_costs_minus_one() -> None:
    y = labels(2, 4, 4, 4)
    assert float(dice_ce(100.0 * one_hot(y), y)[0]) == pytest.approx(-1, abs=1e-4)


@pytest.mark.parametrize("batch", [False, True])
def test_loss_and_gradient_are_monais(batch: bool) -> None:
    """MONAI writes 1 - Dice, so its value is one larger. Class 3 is absent from the second sample."""
    y = labels(2, 5, 6, 7)
    y[1][y[1] == 3] = 0
    z = torch.randn(2, 4, 5, 6, 7, generator=torch.Generator().manual_seed(1), requires_grad=True)
    theirs = DiceCELoss(
        include_background=False, softmax=True, to_onehot_y=True, smooth_nr=1e-5, smooth_dr=1e-5, batch=batch
    )
    ours, reference = dice_ce(z, y, batch)[0], theirs(z, y[:, None])
    assert float(ours.detach()) == pytest.approx(float(reference.detach()) - 1, abs=1e-6)
    (a,), (b,) = torch.autograd.grad(ours, z), torch.autograd.grad(reference, z)
    assert torch.allclose(a, b, atol=1e-8)


def test_an_absent_class_that_is_not_predicted_counts_as_one() -> None:
    p = torch.zeros(1, 3, 8)
    p[:, 0, :4], p[:, 1, 4:] = 1, 1
    y = torch.tensor([[0] * 4 + [1] * 4])
    assert float(soft_dice(p, y)) == pytest.approx(1)


def test_background_does_not_enter_the_dice() -> None:
    p = torch.rand(1, 3, 8)
    other = p.clone()
    other[:, 0] = torch.rand(1, 8)
    y = torch.tensor([[0, 1, 2, 1, 0, 2, 1, 0]])
    assert torch.equal(soft_dice(p, y), soft_dice(other, y))


def test_deep_supervision_weights() -> None:
    assert deep_supervision_weights(5) == pytest.approx([8 / 15, 4 / 15, 2 / 15, 1 / 15, 0])
    assert deep_supervision_weights(2) == [1, 0]
    assert deep_supervision_weights(1) == [1]


def test_deep_supervision_is_the_weighted_sum_and_the_lowest_output_gets_no_gradient() -> None:
    y = labels(2, 8, 8, 8)
    outputs = [torch.randn(2, 4, s, s, s, requires_grad=True) for s in (8, 4, 2)]
    total, ce, dice = deeply_supervised(outputs, y)
    halved = y[:, 1::2, 1::2, 1::2]  # the nearest voxel of each pair
    expected = 2 / 3 * dice_ce(outputs[0], y)[0] + 1 / 3 * dice_ce(outputs[1], halved)[0]
    assert float(total.detach()) == pytest.approx(float(expected.detach()), abs=1e-6)
    assert torch.equal(ce - dice, dice_ce(outputs[0], y)[0])
    total.backward()
    sizes = [float(z.grad.abs().max()) for z in outputs if z.grad is not None]
    assert sizes[0] > 0
    assert sizes[1] > 0
    assert sizes[2] == 0


# --- inference -------------------------------------------------------------------------------------------------------


def test_window_starts() -> None:
    assert window_starts(110, 64, 0.5) == [0, 23, 46]
    assert window_starts(48, 32, 0.5) == [0, 16]
    assert window_starts(64, 64, 0.5) == window_starts(10, 64, 0.5) == [0]
    assert window_starts(64, 32, 1.0) == [0, 32]


def test_gaussian_window() -> None:
    line = gaussian_window([8])
    assert float(line[4]) == 1
    assert float(line[3]) == float(line[5]) == pytest.approx(math.exp(-0.5))
    block = gaussian_window([8, 16, 4])
    assert block.shape == (8, 16, 4)
    assert float(block[4, 8, 2]) == 1
    assert torch.allclose(block, line[:, None, None] * gaussian_window([16])[:, None] * gaussian_window([4]))


@pytest.mark.parametrize("size", [(12, 16, 9), (5, 16, 20)])
def test_constant_logits_stay_constant_and_every_voxel_is_seen(size: tuple[int, ...]) -> None:
    constant = torch.tensor([1.0, -2.0, 0.5]).view(1, 3, 1, 1, 1)
    patch = [8, 8, 8]
    found = sliding_window(
        torch.zeros(1, 1, *size),
        lambda x: constant.expand(len(x), 3, 8, 8, 8).clone(),
        patch,
        weights=gaussian_window(patch),
        window_batch=3,
    )
    assert found.shape == (1, 3, *size)
    assert torch.allclose(found, constant.expand_as(found), atol=1e-5)


def test_a_pointwise_network_is_the_same_by_windows_and_at_once() -> None:
    torch.manual_seed(0)
    network, x = nn.Conv3d(1, 3, 1), torch.randn(1, 1, 7, 20, 13)
    with torch.no_grad():
        found = sliding_window(x, network, [8, 8, 8], weights=gaussian_window([8, 8, 8]), window_batch=4)
        assert torch.allclose(found, network(x), atol=1e-5)


def test_first_window_wins_where_windows_are_not_averaged() -> None:
    """Size 10, windows of 4 at 0, 3 and 6: the second decides 4 to 6, the third 7 to 9."""
    calls = iter(range(1, 28))
    found = sliding_window(
        torch.zeros(1, 1, 10, 4, 4), lambda x: torch.full((1, 1, 4, 4, 4), float(next(calls))), [4] * 3, 1.0, first=True
    )
    assert found[0, 0, :, 0, 0].tolist() == [1, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert torch.equal(found, found[..., :1, :1].expand_as(found))


def test_where_the_starts_agree_the_windows_are_monais() -> None:
    """48 with a patch of 32: both begin at 0 and 16. MONAI is given our weights; its own are centred between voxels."""
    from monai.inferers import sliding_window_inference

    torch.manual_seed(0)
    network, x = nn.Conv3d(1, 2, 3, padding=1), torch.randn(1, 1, 48, 48, 48)
    weights = gaussian_window([32] * 3)
    with torch.no_grad():
        ours = sliding_window(x, network, [32] * 3, 0.5, weights, 8)
        theirs = sliding_window_inference(x, (32,) * 3, 8, network, 0.5, "gaussian", roi_weight_map=weights)
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_flips_are_all_subsets_of_the_axes() -> None:
    assert flips([]) == [()]
    assert flips((0, 1, 2))[0] == ()
    assert sorted(flips((0, 1, 2))) == sorted([(), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4)])


def test_labels_of_resampled_logits() -> None:
    logits = torch.randn(1, 5, 6, 7, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resampled_labels(logits, [6, 7, 8]), logits[0].argmax(0))
    size = [9, 7, 12]
    assert torch.equal(resampled_labels(logits, size), F.interpolate(logits, size=size, mode="trilinear")[0].argmax(0))


# --- metrics ---------------------------------------------------------------------------------------------------------


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
    found = scores.compute()
    each = torch.stack([dice_per_class(*case, 3) for case in cases])
    assert torch.allclose(found["dice"], each.nanmean(0))
    assert torch.allclose(found["dice"][1], each[1:, 1].mean())
    counts = torch.stack([region_matches(*case, 3, [0.1]) for case in cases]).sum(0)[0]
    assert torch.allclose(found["f1"][0], 2 * counts[:, 0] / (2 * counts[:, 0] + counts[:, 1] + counts[:, 2]))
    assert int(found["n"]) == 4
    assert torch.allclose(parts[0].dice_sum + parts[1].dice_sum, scores.dice_sum)  # what two processes add up
    assert torch.equal(parts[0].regions + parts[1].regions, scores.regions)
