"""Views of images: sizes, places, symmetries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modules.off_the_shelf.views import Jitter, Patches, patch_boxes


def images(count: int = 4, channels: int = 3, side: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def crop(x: Tensor, top: int, left: int, height: int, width: int, side: int) -> Tensor:
    part = x[..., top : top + height, left : left + width]
    return nn.functional.interpolate(part, (side, side), mode="bicubic", antialias=True).clamp(0, 1)


def test_sixteen_views() -> None:
    """A crop's share of the area is 4/9, that is 147 of 221 pixels."""
    x = images(2, 3, 221)
    views = Jitter()(x, 221)
    assert len(views) == 16
    assert all(view.shape == x.shape for view in views)
    assert torch.equal(views[0], x)
    assert torch.equal(views[8].flip(-1), x)  # the mirror of a mirror
    assert torch.allclose(views[1], crop(x, 0, 0, 147, 147, 221))
    assert torch.allclose(views[5], crop(x, 37, 37, 147, 147, 221))
    assert pytest.approx(4 / 9, abs=0.005) == (147 / 221) ** 2
    assert len(Jitter(mirror=False)(x, 221)) == 8


def test_crops_are_cut_at_the_images_own_size() -> None:
    """332 pixels give crops of 221: what the network sees of them is not interpolated."""
    x = images(1, 3, 332)
    views = Jitter()(x, 221)
    assert torch.equal(views[4], x[..., -221:, -221:])
    assert torch.allclose(views[0], crop(x, 0, 0, 332, 332, 221))
    wide = torch.rand(1, 1, 30, 60)
    assert torch.allclose(Jitter()(wide, 20)[2], crop(wide, 0, 20, 20, 40, 20))


def test_views_of_a_symmetric_image_are_equal_in_pairs() -> None:
    x = images(1, 1, 60)
    views = Jitter()(x + x.flip(-1), 60)
    assert all(torch.equal(a, b) for a, b in zip(views[:8], views[8:], strict=True))


def test_mirrored_views_are_views_of_the_mirror() -> None:
    """Corners and rotations change places; as a set nothing is missing."""
    views = Jitter()(images(1, 1, 60), 60)
    partners = [8, 10, 9, 12, 11, 13, 15, 14]
    for view, other in zip(views[:8], partners, strict=True):
        assert torch.allclose(view.flip(-1), views[other], atol=1e-5)


def test_rotations_turn() -> None:
    x = images(1, 1, 33)
    quarter = Jitter(angle=90)(x, 33)
    assert torch.allclose(quarter[6], torch.rot90(x, 1, (2, 3)), atol=1e-4) or torch.allclose(
        quarter[6], torch.rot90(x, -1, (2, 3)), atol=1e-4
    )
    assert torch.allclose(quarter[6].flip(-1, -2), quarter[7], atol=1e-4)
    assert torch.allclose(Jitter(angle=0)(x, 33)[6], x, atol=1e-5)


def test_beyond_its_border_a_turned_image_is_reflected() -> None:
    for view in Jitter()(torch.full((1, 3, 33, 33), 0.4), 33):
        assert torch.allclose(view, torch.full((1, 3, 33, 33), 0.4), atol=1e-5)


@pytest.mark.parametrize(("levels", "patches"), [(1, 1), (2, 5), (3, 14), (4, 30)])
def test_patches_cover_the_image(levels: int, patches: int) -> None:
    for height, width in ((221, 221), (97, 150), (56, 56)):
        boxes = patch_boxes(height, width, levels)
        assert len(boxes) == patches
        seen = torch.zeros(height, width)
        for top, left, h, w in boxes[-(levels**2) :]:
            assert 0 <= top <= height - h
            assert 0 <= left <= width - w
            seen[top : top + h, left : left + w] += 1
        assert float(seen.min()) >= 1
    x = images(1, 1, 60)
    few, many = Patches(2)(x, 40), Patches(4)(x, 40)
    assert all(torch.equal(a, b) for a, b in zip(few, many, strict=False))  # fewer levels come first
