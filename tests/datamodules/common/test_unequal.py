"""Canvases with one large image, mostly the label's, and smaller others."""

from __future__ import annotations

import pytest
import torch

from datamodules.common.base import DataError
from datamodules.common.composites import Composites
from datamodules.common.photo_patches import PhotoPatches, assemble
from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.common.unequal import UnequalComposites, halved, large_one

BACKGROUND = 7


def canvases(**options: object) -> UnequalComposites:
    data = UnequalComposites(
        FashionMNIST(50, seed=3),
        **{"batch_size": 40, "train_size": 200, "test_size": 1000, "background": BACKGROUND, **options},  # type: ignore[arg-type]
    )
    data.setup()
    return data


def test_half_the_size_by_hand() -> None:
    image = torch.tensor([[0, 2, 10, 20], [4, 6, 30, 41], [1, 1, 0, 0], [1, 1, 0, 1]], dtype=torch.uint8)
    assert halved(image[None, None], 9)[0, 0].tolist() == [[9, 9, 9, 9], [9, 3, 25, 9], [9, 1, 0, 9], [9, 9, 9, 9]]
    assert halved(image[None, None, :, :3], 9).shape == (1, 1, 4, 3)


@pytest.mark.parametrize("prominence", [0.0, 0.75, 1.0])
def test_the_label_is_the_large_one_as_often_as_said(prominence: float) -> None:
    valid = torch.tensor([[3, -1, -1], [5, 6, -1], [1, 2, 3]]).repeat(4000, 1)
    large = large_one(valid, prominence, torch.Generator().manual_seed(0)).view(4000, 3)
    assert not large[:, 0].any()  # a single image is large
    assert large[:, 1].max() <= 1
    shares = large[:, 2].bincount(minlength=3) / 4000
    for actual in (large[:, 1], large[:, 2]):
        assert float((actual == 0).float().mean()) == pytest.approx(prominence, abs=0.03)
    assert torch.allclose(shares[1:], torch.tensor((1 - prominence) / 2), atol=0.03)


def test_each_cell_shows_its_image_and_one_of_them_is_large() -> None:
    data = canvases(patches=[1, 2, 4])
    images, labels = data.source.splits["test"]
    layout = data.layouts["test"]
    x, y, valid, skip, major = next(iter(data.test_dataloader()))
    assert torch.equal(valid[:, 0], y)
    assert not skip.any()
    assert not major.any()
    canvas = assemble(data.images["test"], layout.items, layout.cells, BACKGROUND)
    assert torch.allclose(x * data.spec.std[0] + data.spec.mean[0], canvas[:40] / 255, atol=1e-6)
    quarters = canvas.unfold(2, 28, 28).unfold(3, 28, 28).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)  # (N, 4, C, H, W)
    for row in range(0, 3000, 97):
        shown = (1, 2, 4)[row // 1000]
        own = layout.items[row, :shown] % len(images)
        assert torch.equal(labels[own], layout.valid[row, :shown])
        small = layout.items[row, :shown] >= len(images)
        assert int(small.sum()) == shown - 1
        expected = torch.where(small[:, None, None, None], halved(images[own], BACKGROUND), images[own])
        assert torch.equal(quarters[row, layout.cells[row, :shown]], expected)


def test_size_tells_the_label_and_nothing_else_does() -> None:
    data = canvases(test_size=6000)
    layout, count = data.layouts["test"], len(data.source.splits["test"][0])
    assert float((layout.items[:, 0] < count).float().mean()) == pytest.approx(0.75, abs=0.02)
    assert layout.valid[:, 0].bincount().float().div(6000).sub(0.1).abs().max() < 0.015
    assert layout.cells[:, 0].bincount().float().div(6000).sub(0.25).abs().max() < 0.02


def test_training_canvases_show_no_test_image_and_follow_the_seed() -> None:
    drawn = [canvases(seed=seed, prominence=p) for seed, p in ((0, 0.75), (0, 0.75), (1, 0.75), (0, 0.5))]
    first, again, other, less = (data.spec.identity for data in drawn)
    assert first == again
    assert len({first, other, less}) == 3
    shown = {
        name: {bytes(image.numpy()) for image in drawn[0].images[name][layout.items.flatten()]}
        for name, layout in drawn[0].layouts.items()
    }
    assert not shown["train"] & shown["test"]
    plain = Composites(FashionMNIST(50, seed=3), 40, 200, 1000)
    plain.setup()
    assert torch.equal(plain.layouts["train"].valid, drawn[0].layouts["train"].valid)


def test_what_is_said_and_what_is_refused() -> None:
    assert "the label is the large one with probability 0.75" in canvases().spec.split
    with pytest.raises(DataError, match=r"prominence=1\.5"):
        canvases(prominence=1.5)
    data = UnequalComposites(PhotoPatches("nowhere", side=8), 4, test_size=3, patches=[4], generated=True)
    data.setup()
    assert next(iter(data.test_dataloader()))[0].shape == (3, 3, 16, 16)
    assert data.spec.source == "generated"
