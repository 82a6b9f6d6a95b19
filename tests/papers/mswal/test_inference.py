"""Sliding windows, mirrored views and resampled labels against hand-computed values and MONAI."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modules.mswal.inference import gaussian_window, list_flips, resample_to_labels, sliding_window, window_starts


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
    actual = sliding_window(
        torch.zeros(1, 1, *size),
        lambda x: constant.expand(len(x), 3, 8, 8, 8).clone(),
        patch,
        weights=gaussian_window(patch),
        window_batch=3,
    )
    assert actual.shape == (1, 3, *size)
    assert torch.allclose(actual, constant.expand_as(actual), atol=1e-5)


def test_a_pointwise_network_is_the_same_by_windows_and_at_once() -> None:
    torch.manual_seed(0)
    network, x = nn.Conv3d(1, 3, 1), torch.randn(1, 1, 7, 20, 13)
    with torch.no_grad():
        actual = sliding_window(x, network, [8, 8, 8], weights=gaussian_window([8, 8, 8]), window_batch=4)
        assert torch.allclose(actual, network(x), atol=1e-5)


def test_first_window_wins_where_windows_are_not_averaged() -> None:
    """Size 10, windows of 4 at 0, 3 and 6: the second decides 4 to 6, the third 7 to 9."""
    calls = iter(range(1, 28))
    actual = sliding_window(
        torch.zeros(1, 1, 10, 4, 4), lambda x: torch.full((1, 1, 4, 4, 4), float(next(calls))), [4] * 3, 1.0, first=True
    )
    assert actual[0, 0, :, 0, 0].tolist() == [1, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert torch.equal(actual, actual[..., :1, :1].expand_as(actual))


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
    assert list_flips([]) == [()]
    assert list_flips((0, 1, 2))[0] == ()
    assert sorted(list_flips((0, 1, 2))) == sorted([(), (2,), (3,), (4,), (2, 3), (2, 4), (3, 4), (2, 3, 4)])


def test_labels_of_resampled_logits() -> None:
    logits = torch.randn(1, 5, 6, 7, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resample_to_labels(logits, [6, 7, 8]), logits[0].argmax(0))
    size = [9, 7, 12]
    assert torch.equal(
        resample_to_labels(logits, size), F.interpolate(logits, size=size, mode="trilinear")[0].argmax(0)
    )
