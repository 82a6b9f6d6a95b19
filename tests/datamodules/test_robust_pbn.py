"""Photos of fine-grained kinds: two views, augmentation as published, errors that name what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules.common.base import DataError
from datamodules.robust_pbn import photos
from datamodules.robust_pbn.photos import COLOUR, SHAPE, Collection, FineGrained, Operations, Views


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of four photos each, known as the collection `few`."""
    monkeypatch.setitem(photos.COLLECTIONS, "few", Collection("few", 2, 8, 4, "made by a test"))
    for split, count in (("train", 4), ("test", 2)):
        for name in ("ash", "oak"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                colours = (60 * number, 200 if name == "oak" else 20, 90)
                Image.new("RGB", (50, 40), colours).save(tmp_path / split / name / f"{number}.jpg")
    return tmp_path


def test_training_has_two_views_and_the_test_one(folder: Path) -> None:
    data = FineGrained(str(folder), 4, "few", image_size=32, num_workers=0)
    data.setup()
    assert data.spec.classes == ("ash", "oak")
    assert dict(data.spec.sizes) == {"train": 8, "test": 4}
    batch = next(iter(data.train_dataloader()))
    assert batch._fields == ("x", "y", "x2")
    assert batch.x.shape == batch.x2.shape == (4, 3, 32, 32)
    assert not torch.equal(batch.x, batch.x2)
    tested = next(iter(data.test_dataloader()))[0]
    assert tested.shape == (4, 3, 32, 32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = (torch.tensor([0, 20, 90]).view(3, 1, 1) / 255 - mean) / std  # the first ash
    assert torch.allclose(tested[0], expected.expand(3, 32, 32), atol=0.05)


def test_a_photo_and_an_epoch_fix_both_views(folder: Path) -> None:
    def first(seed: int) -> torch.Tensor:
        data = FineGrained(str(folder), 8, "few", image_size=32, num_workers=0, seed=seed)
        data.setup()
        return next(iter(data.train_dataloader())).x2

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_operations_and_their_strengths_are_the_published_ones() -> None:
    shape = Operations(SHAPE)._augmentation_space(31)
    assert set(shape) == {"Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}
    assert [float(shape[name][0].max()) for name in ("ShearX", "TranslateY", "Rotate")] == [0.5, 16.0, 60.0]
    colour = Operations(COLOUR, posterize=True, histogram=True)._augmentation_space(31)
    assert set(colour) == {
        *("Identity", "Brightness", "Color", "Contrast", "Sharpness", "Posterize", "AutoContrast", "Equalize")
    }
    assert float(colour["Color"][0].max()) == pytest.approx(0.02)
    assert [int(colour["Posterize"][0][place]) for place in (0, -1)] == [8, 2]
    cars = Operations(COLOUR, solarize=True)._augmentation_space(31)["Solarize"][0]
    assert [float(cars[place]) for place in (0, -1)] == [255.0, 0.0]


@pytest.mark.parametrize("strong", [False, True])
def test_cars_alone_are_solarised_and_change_in_saturation_as_in_brightness(folder: Path, strong: bool) -> None:
    """The two transforms that a training photo goes through, with the sizes on their way: +8, +4, and the network's."""
    data = FineGrained(str(folder), 4, "few", image_size=32, views=Views(strong_colours=strong), num_workers=0)
    both = data.transform(train=True)
    resize, shape, _, crop = both.shape.transforms
    colour, last, *_ = both.view.transforms
    assert (list(resize.size), list(crop.size), list(last.size)) == ([40, 40], [36, 36], [32, 32])
    assert shape.signed == SHAPE
    assert colour.signed == {**COLOUR, "Color": 0.5 if strong else 0.02}
    space = colour._augmentation_space(31)
    assert ("Solarize" in space) is strong
    assert {"Posterize", "AutoContrast", "Equalize"} <= set(space)


@pytest.mark.parametrize(("collection", "classes"), [("cub200", 200), ("cars", 196), ("pets", 37)])
def test_published_collections(collection: str, classes: int) -> None:
    data = FineGrained("nowhere", 2, collection, image_size=16, generated=True)
    data.setup()
    assert len(data.spec.classes) == classes
    assert data.spec.source == "generated"
    batch = next(iter(data.train_dataloader()))
    assert batch.x2.shape == (2, 3, 16, 16)


def test_errors_name_what_is_wrong(folder: Path) -> None:
    with pytest.raises(DataError, match="collection='trees': expected one of cub200, cub200_whole, cars, pets"):
        FineGrained("nowhere", 2, "trees")
    with pytest.raises(DataError, match="has 2 class folders, expected 37 for Oxford-IIIT Pet"):
        FineGrained(str(folder), 2, "pets").setup()
    assert "does not exist" in FineGrained("nowhere", 2, "cars").available()
