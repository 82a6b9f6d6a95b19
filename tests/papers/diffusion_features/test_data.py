"""Crops of photos by the released rules, and small images in [-1, 1]."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.diffusion_features.photos import Crop, ImageNet256, Kinds256, shrink


def photo(width: int, height: int) -> Image.Image:
    source = np.random.default_rng(0)
    return Image.fromarray(source.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("width", "height", "expected"), [(100, 40, (80, 32)), (70, 300, (32, 137)), (32, 32, (32, 32))]
)
def test_the_shorter_side(width: int, height: int, expected: tuple[int, int]) -> None:
    assert shrink(photo(width, height), 32).size == expected


def test_large_photos_are_halved_by_boxes_first() -> None:
    image = photo(64, 64)
    means = np.asarray(image).astype(float).reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(np.asarray(shrink(image, 32)).astype(float) - means).max() <= 1  # Pillow rounds each direction


def test_the_centre_of_a_test_photo() -> None:
    image = photo(48, 32)
    x = Crop(32, train=False)(image)
    assert x.shape == (3, 32, 32)
    expected = torch.from_numpy(np.asarray(image)[:, 8:40].copy()).permute(2, 0, 1) / 127.5 - 1
    assert torch.equal(x, expected)
    assert float(x.min()) >= -1
    assert float(x.max()) <= 1


def test_training_crops_vary_within_the_rule() -> None:
    image, crop = photo(80, 60), Crop(32, train=True)
    crops = [crop(image) for _ in range(20)]
    assert {tuple(x.shape) for x in crops} == {(3, 32, 32)}
    assert len({x.sum().item() for x in crops}) > 15
    torch.manual_seed(4)
    first = crop(image)
    torch.manual_seed(4)
    assert torch.equal(crop(image), first)


def test_photos_of_a_folder(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for kind in ("a", "b"):
            folder = tmp_path / split / kind
            folder.mkdir(parents=True)
            photo(50, 40).save(folder / "1.png")
    data = Kinds256(str(tmp_path), 2, {"classes": 2, "train": 2, "test": 2}, "", "val", 32, num_workers=0)
    data.setup()
    assert data.spec.sizes == {"train": 2, "test": 2}
    (batch,) = data.test_dataloader()
    assert batch.x.shape == (2, 3, 32, 32)
    assert batch.y.tolist() == [0, 1]
    assert torch.equal(batch.x[0], Crop(32, train=False)(photo(50, 40)))
    other = Kinds256(str(tmp_path), 2, {"classes": 2, "train": 2, "test": 2}, "where it is", "test", 32)
    assert "no test folder" in other.available()


def test_imagenet_is_served_in_the_range_of_the_network() -> None:
    spec = ImageNet256("nowhere", 2, generated=True).spec
    assert (spec.shape, spec.mean, spec.std) == ((3, 256, 256), (0.5,) * 3, (0.5,) * 3)
