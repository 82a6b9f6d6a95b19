"""CUB-200-2011: lists, boxes, whole photos, copies, augmentation; and what each distortion does."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from datamodules.common.base import DataError
from datamodules.common.cub import Birds, Variation
from datamodules.common.distortions import KINDS, distort, inscribed

THREE = ("rotate", "skew", "shear")
SIX = Variation(6, THREE)


def test_birds_are_cropped_and_squashed(birds: Path) -> None:
    data = Birds(str(birds), 2, image_size=16, num_workers=0)
    assert data.available() == ""
    data.setup()
    assert data.spec.sizes == {"train": 4, "val": 0, "test": 2}
    assert data.spec.classes[:3] == ("000.kind", "001.kind", "002.kind")
    batch = next(iter(data.test_dataloader()))
    assert batch._fields == ("x", "y", "row")
    assert (batch.y.tolist(), batch.row.tolist()) == ([2, 0], [0, 1])
    shown = data.shown(batch.x)
    assert (255 * shown[0, :, 0, 0]).round().tolist() == [200, 150, 50]  # no background is left
    assert float(shown.min()) < 0.2
    rows = torch.cat([b.row for b in data.train_dataloader()])
    assert sorted(rows.tolist()) == [0, 1, 2, 3]
    assert data.training_images([2]).shape == (1, 3, 16, 16)


def test_copies_are_fixed_by_the_seed_as_copies_on_a_disc(birds: Path) -> None:
    data = Birds(str(birds), 4, image_size=16, variation=SIX, num_workers=0)
    data.setup()
    assert data.spec.sizes["train"] == 24
    dataset = data._dataset("train")
    first, later = dataset[(0, 7)], dataset[(5, 7)]
    assert torch.equal(first[0], later[0])
    assert first[1:] == later[1:] == (2, 1)  # the second photo
    assert not torch.equal(dataset[(0, 6)][0], first[0])
    other = Birds(str(birds), 4, image_size=16, variation=SIX, num_workers=0, seed=1)
    other.setup()
    assert not torch.equal(other._dataset("train")[(0, 7)][0], first[0])
    rows = torch.cat([b.row for b in data.train_dataloader()])
    assert rows.bincount().tolist() == [6] * 4


def test_copies_of_a_photo_are_as_many_of_each_kind() -> None:
    """Two of each kind, one kind after the other; the next photo's copies begin anew."""
    assert [SIX.kind(item) for item in range(7)] == ["rotate"] * 2 + ["skew"] * 2 + ["shear"] * 2 + ["rotate"]
    assert (SIX.factor, Variation().factor) == (6, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_distorted_copies_have_no_empty_corners(kind: str) -> None:
    image = Image.fromarray(np.full((50, 70, 3), 255, np.uint8))
    for seed in range(20):
        torch.manual_seed(seed)
        distorted = distort(image, kind)
        assert distorted.size == image.size
        assert np.asarray(distorted)[2:-2, 2:-2].min() > 200, seed


def test_the_largest_rectangle_inside_a_turned_one() -> None:
    assert inscribed(4, 3, 0) == (4, 3)
    assert inscribed(1, 1, 45) == pytest.approx((math.sqrt(0.5),) * 2)


def test_whole_photos_are_augmented_anew_in_every_epoch(birds: Path) -> None:
    data = Birds(str(birds), 2, 16, Variation(augment=ImageOps.mirror), whole=True, num_workers=0)
    data.setup()
    assert data.spec.name == "CUB-200-2011, whole"
    train = data._dataset("train")
    plain = data.training_images([0])[0]
    assert (255 * data.shown(plain)[:, 0, 0]).round().tolist() == [20, 20, 20]  # background
    assert not torch.equal(train[(0, 0)][0], plain)
    assert torch.equal(data._dataset("test")[(0, 0)][0], data._dataset("test")[(1, 0)][0])

    def shift(image: Image.Image) -> Image.Image:
        return image.transform(image.size, Image.Transform.AFFINE, (1, 0, 40 * float(torch.rand(())), 0, 1, 0))

    data = Birds(str(birds), 2, 16, Variation(augment=shift), whole=True, num_workers=0)
    data.setup()
    train = data._dataset("train")
    assert not torch.equal(train[(0, 0)][0], train[(1, 0)][0])
    assert torch.equal(train[(1, 0)][0], train[(1, 0)][0])


def test_generated_birds_have_the_declared_shapes() -> None:
    data = Birds("nowhere", 4, image_size=32, variation=Variation(30, THREE), generated=True)
    data.setup()
    assert next(iter(data.train_dataloader())).x.shape == (4, 3, 32, 32)
    assert data.spec.sizes == {"train": 179_820, "val": 0, "test": 5794}


def test_what_is_missing_or_damaged_is_named(birds: Path) -> None:
    assert "has no images.txt" in Birds(str(birds / "nowhere"), 2).available()
    with pytest.raises(DataError, match="CUB-200-2011"):
        Birds(str(birds / "nowhere"), 2).setup()
    with pytest.raises(DataError, match="multiple of 3"):
        Variation(10, THREE)
    with pytest.raises(DataError, match="'melt': expected one of rotate"):
        Variation(10, ["melt"])
    data = Birds(str(birds), 2, num_workers=0)
    data.setup()
    (birds / "images" / data.birds["train"][0].file).write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png cannot be decoded"):
        data._dataset("train")[(0, 0)]
    (birds / "bounding_boxes.txt").write_text("1 2 3\n")
    with pytest.raises(DataError, match="cannot be read"):
        Birds(str(birds), 2).setup()


def test_bending_moves_pixels_a_little_and_leaves_the_edge() -> None:
    ramp = np.tile(np.arange(100, dtype=np.uint8)[None, :, None], (100, 1, 3))
    torch.manual_seed(0)
    bent = np.asarray(distort(Image.fromarray(ramp), "bend")).astype(int)
    if bent[0, 0, 0] > 50:  # mirrored
        bent = bent[:, ::-1]
    moved = np.abs(bent - ramp)[..., 0]
    assert 2 <= moved.max() <= 6
    assert moved[:, [0, -1]].max() <= 1
