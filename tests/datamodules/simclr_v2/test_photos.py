"""ImageNet for SimCLR v2: two views, lists of labelled photos, images in [0, 1]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.common.base import DataError
from datamodules.simclr_v2.photos import SimCLRImageNet

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


def photos(folder: Path, **options: Any) -> SimCLRImageNet:
    made = SimCLRImageNet(
        str(folder / "imagenet"), 4, 32, lists=str(folder / "imagenet_subsets"), num_workers=0, **options
    )
    made.setup()
    return made


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
    assert [Path(name).name for name, _ in photos(folder, labelled="1percent").items["train"]] == [
        "n01440764_0.png",
        "n01443537_2.png",
    ]
    data = photos(folder, labelled="1percent", others="unlabelled")
    assert [label for _, label in data.items["train"]] == [0, -1, -1, -1, -1, 1]
    assert [label for _, label in data.items["test"]] == [0, 0, 0, 1, 1, 1]


def test_declared_sizes_are_the_published_ones() -> None:
    def sizes(**options: Any) -> int:
        return SimCLRImageNet("nowhere", 4, generated=True, **options).spec.sizes["train"]

    assert sizes() == sizes(labelled="1percent", others="unlabelled") == 1_281_167
    assert sizes(labelled="1percent") == 12_811
    assert sizes(labelled="10percent") == 128_116


def test_stand_ins_have_two_views() -> None:
    data = SimCLRImageNet("nowhere", 4, 32, views=2, generated=True)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch.x.shape == batch.x2.shape == (4, 3, 32, 32)
    assert not torch.equal(batch.x, batch.x2)


@pytest.mark.parametrize("options", [{"views": 3}, {"labelled": "5percent"}, {"others": "maybe"}])
def test_wrong_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(options))):
        SimCLRImageNet("nowhere", 4, **options)


def test_a_missing_or_foreign_list_is_named(folder: Path) -> None:
    missing = SimCLRImageNet(str(folder / "imagenet"), 4, 32, labelled="10percent", lists=str(folder / "nowhere"))
    assert "google-research/simclr" in missing.available()
    with pytest.raises(DataError, match=r"10percent.txt does not exist; it comes from"):
        missing.setup()
    (folder / "imagenet_subsets" / "1percent.txt").write_text("n0_1.png\n")
    with pytest.raises(DataError, match="holds none of the photos"):
        photos(folder, labelled="1percent")
