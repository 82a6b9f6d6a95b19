"""The layouts of recognition benchmarks, on small folders made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from datamodules.common.base import DataError
from datamodules.off_the_shelf.photos import enlarged, inside, square_around
from datamodules.off_the_shelf.recognition import CUB200, MIT67, VOC2007, Attributes, Boxes, Flowers102
from tests.datamodules.off_the_shelf.helpers import photo, ready, write


def test_boxes_by_hand() -> None:
    assert enlarged((10, 10, 30, 20), 1.5) == (5, 7.5, 35, 22.5)
    assert square_around((10, 10, 30, 20)) == (10, 5, 30, 25)
    assert inside((-5, 5, 30, 40), 40, 30, square=False) == (0, 5, 30, 30)
    assert inside((-5, 5, 15, 25), 40, 30, square=True) == (0, 5, 20, 25)  # moved, not cut: it stays a square
    assert inside((4, 6, 14, 16), 40, 30, square=True) == (4, 6, 14, 16)
    assert inside((0, -20, 60, 40), 40, 30, square=True) == (10, 0, 40, 30)


def test_voc_labels_and_difficult_objects(tmp_path: Path) -> None:
    for number, name in enumerate(VOC2007.names):
        for split, files in (("trainval", ("000001", "000002")), ("test", ("000003",))):
            sign = {0: ["1", "-1"], 1: ["0", "1"]}.get(number, ["-1", "-1"])
            write(tmp_path / f"ImageSets/Main/{name}_{split}.txt", *(f"{f}  {s}" for f, s in zip(files, sign)))  # noqa: B905
    for n in range(1, 4):
        photo(tmp_path / f"JPEGImages/00000{n}.jpg", (50 * n, 0, 0))
    data = ready(VOC2007(str(tmp_path), 2, side=8))
    assert data.targets["train"][:, :3].tolist() == [[1, -1, 0], [0, 1, 0]]
    assert data.rows["test"].tolist() == [2]
    images = data.images(torch.tensor([2, 0]))
    assert images.shape == (2, 3, 8, 8)
    assert float(images[0, 0].mean()) == pytest.approx(150 / 255, abs=0.02)


def test_mit67(tmp_path: Path) -> None:
    for file in ("bar/a.jpg", "zoo/b.jpg", "bar/c.jpg"):
        photo(tmp_path / "Images" / file)
    write(tmp_path / "TrainImages.txt", "bar/a.jpg", "zoo/b.jpg")
    write(tmp_path / "TestImages.txt", "bar/c.jpg")
    data = ready(MIT67(str(tmp_path), 2))
    assert (data.targets["train"].tolist(), data.targets["test"].tolist()) == ([0, 1], [0])


def test_birds_are_cut_out_with_context(tmp_path: Path) -> None:
    for n in (1, 2):
        path = tmp_path / f"images/00{n}.X/{n}.jpg"
        photo(path, (0, 0, 0))
        with Image.open(path) as picture:
            picture.paste((255, 255, 255), (10, 10, 30, 20))
            picture.save(path, quality=100)
    write(tmp_path / "images.txt", "1 001.X/1.jpg", "2 002.X/2.jpg")
    write(tmp_path / "image_class_labels.txt", "1 1", "2 2")
    write(tmp_path / "train_test_split.txt", "1 1", "2 0")
    write(tmp_path / "bounding_boxes.txt", "1 10.0 10.0 20.0 10.0", "2 10.0 10.0 20.0 10.0")
    whole = ready(CUB200(str(tmp_path), 2, side=30, context=1.0)).images(torch.tensor([0]))
    wide = ready(CUB200(str(tmp_path), 2, side=30, context=1.5))
    assert float(whole.mean()) > 0.95
    assert float(wide.images(torch.tensor([0])).mean()) == pytest.approx(1 / 1.5**2, abs=0.03)
    assert (wide.targets["train"].tolist(), wide.targets["test"].tolist()) == ([0], [1])


@pytest.mark.parametrize(("with_val", "expected"), [(False, [4]), (True, [4, 0])])
def test_flowers(tmp_path: Path, with_val: bool, expected: list[int]) -> None:
    for n in (1, 2, 3):
        photo(tmp_path / f"jpg/image_0000{n}.jpg")
    savemat(tmp_path / "imagelabels.mat", {"labels": np.array([[1, 5, 102]])})
    savemat(tmp_path / "setid.mat", {"trnid": [[2]], "valid": [[1]], "tstid": [[3]]})
    data = ready(Flowers102(str(tmp_path), 2, with_val=with_val))
    assert (data.targets["train"].tolist(), data.targets["test"].tolist()) == (expected, [101])


def test_attributes_of_boxes_and_what_is_unspecified(tmp_path: Path) -> None:
    photo(tmp_path / "JPEGImages/a.jpg")
    write(tmp_path / "apascal_train.txt", "a.jpg dog 1 1 20 20 1 0 -1", "a.jpg cat 5 5 30 20 0 1 1")
    write(tmp_path / "apascal_test.txt", "a.jpg cat 1 1 10 10 1 1 0")
    data = ready(Attributes(str(tmp_path), 2, count=3))
    assert data.targets["train"].tolist() == [[1, 0, 0], [0, 1, 1]]
    assert len(data.photos) == 3  # a row a box, not a file
    assert [each.box for each in data.photos] == [(1, 1, 20, 20), (5, 5, 30, 20), (1, 1, 10, 10)]
    assert (data.spec.name, data.spec.shape) == ("UIUC attributes (aPascal)", (3, 221, 221))
    cats = Attributes(str(tmp_path), 2, "cats", count=3, test=Boxes("apascal_test.txt", ["dog"]))
    assert cats.spec.name == "cats"
    with pytest.raises(DataError, match="lists 2 training and 0 test photos"):
        cats.setup()
    unsure = ready(Attributes(str(tmp_path), 2, count=3, unspecified=0, train=Boxes("apascal_train.txt", ["dog"])))
    assert unsure.targets["train"].tolist() == [[1, -1, 0]]
    assert Attributes(str(tmp_path), 2, count=2, names=["hat", "jeans"]).spec.classes == ("hat", "jeans")
    with pytest.raises(DataError, match="expected 3"):
        Attributes(str(tmp_path), 2, count=3, names=["hat"])
    with pytest.raises(DataError, match="3 attributes where 9 are expected"):
        Attributes(str(tmp_path), 2, count=9).setup()


def test_a_dry_run_gets_attributes_of_both_kinds() -> None:
    data = Attributes("nowhere", 6, count=4, generated=True)
    data.setup()
    assert data.targets["train"].shape == (6, 4)
    assert data.targets["train"].float().mean(0).tolist() == [0.5] * 4
    assert set(data.targets["train"].flatten().tolist()) == {0, 1}


def test_missing_and_damaged_data_is_named(tmp_path: Path) -> None:
    data = MIT67(str(tmp_path / "nowhere"), 2)
    assert "TrainImages.txt does not exist. MIT-67 indoor scenes: https" in data.available()
    with pytest.raises(DataError, match="TrainImages"):
        data.setup()
    write(tmp_path / "TrainImages.txt", "bar/a.jpg")
    write(tmp_path / "TestImages.txt", "bar/a.jpg")
    write(tmp_path / "Images/bar/a.jpg", "no picture")
    broken = ready(MIT67(str(tmp_path), 2))
    with pytest.raises(DataError, match=r"a\.jpg cannot be decoded"):
        broken.images(torch.tensor([0]))
