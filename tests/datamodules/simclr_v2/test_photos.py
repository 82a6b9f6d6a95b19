"""ImageNet for SimCLR v2: two views, lists of labelled photos, images in [0, 1]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.common.base import DataError
from datamodules.simclr_v2.photos import Labels, SimCLRImageNet, Views

CLASSES = ("n01440764", "n01443537")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in CLASSES:
            place = tmp_path / "imagenet" / split / name
            place.mkdir(parents=True)
            for number in range(3):
                pixels = source.integers(0, 256, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{name}_{number}.png")
    lists = tmp_path / "imagenet_subsets"
    lists.mkdir()
    (lists / "1percent.txt").write_text("n01443537_2.png\nn01440764_0.png\nn02000000_9.png\n")
    return tmp_path


def labels(folder: Path, part: str | None = None, others: str = "drop") -> Labels:
    return Labels(part, others, str(folder / "imagenet_subsets"))


def photos(folder: Path, views: int = 1, chosen: Labels | None = None, seed: int = 0) -> SimCLRImageNet:
    data = SimCLRImageNet(str(folder / "imagenet"), 4, 32, Views(views), chosen or labels(folder), 0, seed)
    data.setup()
    return data


def test_two_views_in_the_unit_range_that_come_again(folder: Path) -> None:
    first, again = (next(iter(photos(folder, views=2).train_dataloader())) for _ in range(2))
    assert first.x.shape == first.x2.shape == (4, 3, 32, 32)
    assert not torch.equal(first.x, first.x2)
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.x2, again.x2)
    assert float(min(first.x.min(), first.x2.min())) >= 0
    assert float(max(first.x.max(), first.x2.max())) <= 1
    other = next(iter(photos(folder, views=2, seed=1).train_dataloader()))
    assert not torch.equal(first.x.sum(), other.x.sum())


def test_one_view_and_the_test_are_crops_alone(folder: Path) -> None:
    data = photos(folder)
    batch = next(iter(data.train_dataloader()))
    assert batch._fields == ("x", "y")
    test = next(iter(data.test_dataloader()))
    assert test.x.shape == (4, 3, 32, 32)
    assert 0.4 < float(test.x.mean()) < 0.6  # not normalised
    assert (data.spec.mean, data.spec.std) == ((0, 0, 0), (1, 1, 1))
    assert data.resize == 36  # int(256 / 224 * 32)


def test_the_list_says_who_has_a_label(folder: Path) -> None:
    assert [Path(name).name for name, _ in photos(folder, chosen=labels(folder, "1percent")).items["train"]] == [
        "n01440764_0.png",
        "n01443537_2.png",
    ]
    data = photos(folder, chosen=labels(folder, "1percent", "unlabelled"))
    assert [label for _, label in data.items["train"]] == [0, -1, -1, -1, -1, 1]
    assert [label for _, label in data.items["test"]] == [0, 0, 0, 1, 1, 1]


def test_a_test_photo_is_pillows_bicubic_reduction_and_its_centre(folder: Path) -> None:
    """40x48 pixels: the shorter side to 36, then the middle 32x32, in units of [0, 1]."""
    data = photos(folder)
    x = next(iter(data.test_dataloader())).x[0]
    photo = Image.open(folder / "imagenet" / "val" / CLASSES[0] / f"{CLASSES[0]}_0.png")
    assert photo.size == (48, 40)
    reduced = np.asarray(photo.resize((43, 36), Image.Resampling.BICUBIC))
    centre = torch.from_numpy(reduced[2:34, 6:38].copy()).permute(2, 0, 1) / 255  # (43 - 32) / 2 rounds to 6
    assert torch.allclose(x, centre, atol=1e-6)


def test_what_is_there_is_available_and_a_list_is_asked_for_where_one_is_named(folder: Path) -> None:
    root = str(folder / "imagenet")
    for part in (None, "1percent"):
        assert SimCLRImageNet(root, 4, 32, labels=labels(folder, part)).available() == ""
    more = labels(folder, "10percent")
    missing = SimCLRImageNet(root, 4, 32, labels=more).available()
    assert missing.startswith(f"{folder}/imagenet_subsets/10percent.txt does not exist")
    nothing = SimCLRImageNet(str(folder / "nowhere"), 4, 32, labels=more).available()
    assert "nowhere" in nothing  # photos are asked for first
    assert "10percent.txt does not exist" not in nothing


def test_photos_are_224_pixels_wide_unless_said_otherwise() -> None:
    data = SimCLRImageNet("nowhere", 4, generated=True)
    assert data.spec.shape == (3, 224, 224)
    assert data.resize == 256


def test_declared_sizes_are_the_published_ones() -> None:
    def sizes(**options: Any) -> int:
        return SimCLRImageNet("nowhere", 4, labels=Labels(**options), generated=True).spec.sizes["train"]

    assert sizes() == sizes(part="1percent", others="unlabelled") == 1_281_167
    assert sizes(part="1percent") == 12_811
    assert sizes(part="10percent") == 128_116


def test_stand_ins_have_two_views() -> None:
    data = SimCLRImageNet("nowhere", 4, 32, Views(2), generated=True)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch.x.shape == batch.x2.shape == (4, 3, 32, 32)
    assert not torch.equal(batch.x, batch.x2)


@pytest.mark.parametrize(
    ("kind", "options"), [(Views, {"count": 3}), (Labels, {"part": "5percent"}), (Labels, {"others": "maybe"})]
)
def test_wrong_options_are_named(kind: type, options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"{next(iter(options))}="):
        kind(**options)


def test_a_missing_or_foreign_list_is_named(folder: Path) -> None:
    missing = SimCLRImageNet(str(folder / "imagenet"), 4, 32, labels=Labels("10percent", lists=str(folder / "nowhere")))
    assert "google-research/simclr" in missing.available()
    with pytest.raises(DataError, match=r"10percent.txt does not exist; it comes from"):
        missing.setup()
    (folder / "imagenet_subsets" / "1percent.txt").write_text("n0_1.png\n")
    with pytest.raises(DataError, match="holds none of the photos"):
        photos(folder, chosen=labels(folder, "1percent"))
