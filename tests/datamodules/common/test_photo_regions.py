"""Patches of photos: no pixel is in two splits, the same seed gives the same patches, bad sizes are refused."""

from __future__ import annotations

import pytest
import torch

from datamodules.common import photo_regions
from datamodules.common.base import DataError
from datamodules.common.photo_regions import PhotoRegions, deal, read_photos, shrink


def test_the_photos_are_there() -> None:
    assert [tuple(photo.shape) for photo in read_photos()] == [(3, 427, 640), (3, 427, 640), (3, 600, 512)]
    assert all(photo.dtype == torch.uint8 for photo in read_photos())


def test_shrinking_keeps_a_grey_photo() -> None:
    small = shrink(torch.full((3, 38, 57), 77, dtype=torch.uint8), 1.9)
    assert small.shape == (3, 20, 30)
    assert torch.allclose(small, torch.tensor(77.0))


@pytest.mark.parametrize("shares", [(1500, 400, 300), (1, 1, 1), (10, 0, 5)])
def test_blocks_are_dealt_once(shares: tuple[int, ...]) -> None:
    dealt = deal(20, shares, torch.Generator().manual_seed(0))
    assert sorted(number for part in dealt for number in part) == list(range(20))
    assert all(bool(part) == bool(share) for part, share in zip(dealt, shares, strict=True))


def test_no_pixel_is_in_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos whose pixels name their block: what a split's patches show comes of blocks of its own."""
    cells = torch.arange(20).view(4, 5).repeat_interleave(8, 0).repeat_interleave(8, 1)  # 32 x 40, blocks of 8
    photo = (cells * 10).to(torch.uint8).expand(3, -1, -1)
    monkeypatch.setattr(photo_regions, "read_photos", lambda: [photo])
    data = PhotoRegions(4, 60, 60, 60, side=4, block=8, reduction=1.0, gain=(1.0, 1.0))
    data.setup()
    seen = [set(data.splits[name][0].unique().tolist()) for name in ("train", "val", "test")]
    assert sum(len(part) for part in seen) == len(set.union(*seen)) == 20
    assert all(len(image.unique()) == 1 for image in data.splits["train"][0])


def test_a_seed_fixes_the_patches() -> None:
    first, again, other = (PhotoRegions(8, 40, 10, 10, seed=seed) for seed in (3, 3, 4))
    for data in (first, again, other):
        data.setup()
    assert torch.equal(first.splits["test"][0], again.splits["test"][0])
    assert first.spec.identity == again.spec.identity != other.spec.identity
    assert set(first.splits["train"][1].tolist()) == {0, 1, 2}
    assert first.spec.sizes == {"train": 40, "val": 10, "test": 10}


def test_a_block_smaller_than_a_patch_is_refused() -> None:
    with pytest.raises(DataError, match="block=16: expected at least a patch's side, 32"):
        PhotoRegions(8, block=16)


def test_too_few_blocks_are_refused() -> None:
    data = PhotoRegions(8, block=200)
    with pytest.raises(DataError, match="1 blocks of a photo for 3 splits"):
        data.setup()
