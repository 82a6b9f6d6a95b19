"""Augmentation of architecture searches: crops of an enlarged image, and cutout."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from datamodules.common.base import Draws
from datamodules.nasnet.augment import Cutout, EnlargedCrop


def draws(count: int, total: int | None = None, start: int = 0) -> Draws:
    return Draws(torch.Generator().manual_seed(0), total or count, start, count)


def test_an_enlarged_crop_is_a_window_of_the_enlarged_image() -> None:
    images = torch.rand(5, 3, 32, 32)
    crops = EnlargedCrop(40)(images, draws(5))
    large = F.interpolate(images, (40, 40), mode="bilinear", align_corners=False)
    assert crops.shape == images.shape
    for crop, whole in zip(crops, large, strict=True):
        windows = [whole[:, r : r + 32, c : c + 32] for r in range(9) for c in range(9)]
        assert sum(torch.equal(crop, window) for window in windows) == 1
    assert torch.allclose(EnlargedCrop(32)(images, draws(5)), images, atol=1e-6)
    with pytest.raises(ValueError, match="at least the images' 32"):
        EnlargedCrop(31)(images, draws(5))


def test_cutout_replaces_one_square_of_every_image() -> None:
    images = torch.rand(200, 3, 32, 32)
    out = Cutout(16, [0.1, 0.2, 0.3])(images, draws(200))
    changed = (out != images).any(1)  # (200, 32, 32)
    assert torch.equal(out[:, 1][changed], torch.full((int(changed.sum()),), 0.2))
    sides = [changed.any(axis).sum(1) for axis in (1, 2)]
    for image, rows, columns in zip(changed, *sides, strict=True):
        assert int(image.sum()) == int(rows) * int(columns)  # a full rectangle
    areas = changed.sum((1, 2))
    assert int(areas.max()) == 256  # whole where it does not reach out
    assert int(areas.min()) >= 64  # its centre is always inside


def test_a_shared_batch_is_augmented_as_one() -> None:
    images = torch.rand(6, 1, 12, 12)
    for operation in (Cutout(4, 0.5), EnlargedCrop(14)):
        whole = operation(images, draws(6))
        parts = [operation(images[a:b], draws(b - a, 6, a)) for a, b in ((0, 2), (2, 6))]
        assert torch.equal(torch.cat(parts), whole)
