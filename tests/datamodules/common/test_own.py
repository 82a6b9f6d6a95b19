"""One's own images: what is read, how it is cut into splits, and what is said when something is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.common.base import DataError
from datamodules.common.own import HuggingFace, PhotoArrays, PhotoFolder, PhotoTable
from datamodules.common.own_images import OwnImages, balanced, square


def save(path: Path, value: int, size: tuple[int, int] = (6, 4)) -> None:
    """A picture of one grey value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve cats of values 1 to 12 and four dogs of values 101 to 104."""
    for number in range(1, 13):
        save(tmp_path / "photos" / "cat" / f"{number:02d}.png", number)
    for number in range(101, 105):
        save(tmp_path / "photos" / "dog" / f"{number}.png", number)
    return tmp_path / "photos"


def values(data: OwnImages, split: str) -> list[int]:
    """The grey value of each image of a split, which names it."""
    return [int(value) for value in data.splits[split][0][:, 0, 0, 0]]


def test_every_stretch_of_a_balanced_order_holds_the_classes_in_their_shares() -> None:
    labels = torch.tensor([0] * 9 + [1] * 3)
    order = balanced(labels, torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == list(range(12))
    for start in (0, 4, 8):  # three of the one for each of the other
        assert labels[order[start : start + 4]].sum() == 1
    other = balanced(labels, torch.Generator().manual_seed(1))
    assert order.tolist() != other.tolist()


def test_the_middle_square_of_a_picture_is_scaled_to_the_side() -> None:
    """Eight columns, of which the outer two of each side are cut away; the rest is halved."""
    columns = np.repeat(np.array([[0, 0, 10, 10, 200, 200, 90, 90]], dtype=np.uint8), 4, axis=0)
    colour = square(Image.fromarray(columns), 4, grey=False)
    assert colour.shape == (3, 4, 4)
    assert colour[0].tolist() == [[10, 10, 200, 200]] * 4
    assert torch.equal(colour[0], square(Image.fromarray(columns), 4, grey=True)[0])

    even = square(Image.new("L", (30, 20), 77), 10, grey=True)
    assert even.shape == (1, 10, 10)
    assert even.unique().tolist() == [77]


def test_test_images_are_the_same_for_every_seed_and_a_quarter_of_each_class(folder: Path) -> None:
    tested = []
    for seed in (0, 1):
        data = PhotoFolder(4, str(folder), side=4, val_size=2, seed=seed)
        data.setup()
        tested.append(values(data, "test"))
        assert data.spec.classes == ("cat", "dog")
        assert dict(data.spec.sizes) == {"train": 10, "val": 2, "test": 4}
        assert data.splits["test"][1].tolist().count(0) == 3  # of 12
        everything = [value for name in data.splits for value in values(data, name)]
        assert sorted(everything) == [*range(1, 13), *range(101, 105)]
    assert sorted(tested[0]) == sorted(tested[1])
    assert data.smallest_class() == 3


def test_stages_of_one_seed_that_train_on_more_or_fewer_images_are_validated_on_the_same(folder: Path) -> None:
    few, many = (PhotoFolder(4, str(folder), side=4, train_size=size, val_size=3, seed=5) for size in (4, 9))
    few.setup()
    many.setup()
    assert values(few, "val") == values(many, "val")
    assert values(few, "train") == values(many, "train")[:4]
    assert not set(values(many, "train")) & set(values(many, "val"))
    assert sum(value > 100 for value in values(few, "train")) == 1  # a quarter are dogs


def test_a_part_for_the_test_is_taken_as_it_is(tmp_path: Path) -> None:
    for part, numbers in (("train", (1, 2, 3)), ("val", (4,))):
        for number in numbers:
            save(tmp_path / part / "a" / f"{number}.png", number)
            save(tmp_path / part / "b" / f"{number}.png", 100 + number)
    data = PhotoFolder(2, str(tmp_path), side=4)
    data.setup()
    assert sorted(values(data, "test")) == [4, 104]
    assert sorted(values(data, "train")) == [1, 2, 3, 101, 102, 103]
    assert "the test part that the data has" in data.spec.split


def test_a_batch_is_normalised_by_the_mean_that_is_said(folder: Path) -> None:
    data = PhotoFolder(4, str(folder), side=4, grey=True, mean=[0.0], std=[1.0], rows=True)
    data.setup()
    batch = next(iter(data.test_dataloader()))
    assert batch.x.shape == (4, 1, 4, 4)
    assert torch.allclose(batch.x[:, 0, 0, 0] * 255, torch.tensor(values(data, "test")).float())
    assert data.spec.name == "photos"


def test_label_noise_replaces_training_labels_alone(folder: Path) -> None:
    data = PhotoFolder(4, str(folder), side=4, label_noise=1.0, seed=3)
    data.setup()
    assert (data.splits["train"][1] != data.clean_labels).any()
    assert [int(value > 100) for value in values(data, "test")] == data.splits["test"][1].tolist()


def test_generated_data_has_the_declared_shape(folder: Path) -> None:
    data = PhotoFolder(4, str(folder), side=9, generated=True)
    data.setup()
    assert data.splits["train"][0].shape == (12, 3, 9, 9)
    assert data.spec.source == "generated"


def test_a_table_says_files_labels_and_which_are_of_the_test(folder: Path) -> None:
    lines = ["file,label,split", "cat/01.png,x,", "cat/02.png,x,test", "dog/101.png,y,train", "dog/102.png,y,test"]
    (folder / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    data = PhotoTable(2, str(folder), side=4)
    data.setup()
    assert data.spec.classes == ("x", "y")
    assert sorted(values(data, "train")) == [1, 101]
    assert sorted(values(data, "test")) == [2, 102]


def test_arrays_are_read_as_they_are(tmp_path: Path) -> None:
    images = np.arange(8, dtype=np.uint8).repeat(16).reshape(8, 4, 4)
    np.savez(tmp_path / "images.npz", images=images, labels=[10, 10, 10, 10, 9, 9, 9, 9])
    data = PhotoArrays(2, str(tmp_path), side=4, grey=True)
    data.setup()
    assert data.spec.classes == ("09", "10")
    for value, label in zip(values(data, "train"), data.splits["train"][1].tolist(), strict=True):
        assert label == int(value < 4)

    np.savez(
        tmp_path / "own.npz",
        images=images[[0, 4]],
        labels=["a", "b"],
        test_images=images[[1, 5]],
        test_labels=["a", "b"],
    )
    parted = PhotoArrays(2, str(tmp_path), file="own.npz", side=4)
    parted.setup()
    assert sorted(values(parted, "test")) == [1, 5]
    assert parted.spec.shape == (3, 4, 4)


class Table:
    """What `datasets.load_dataset` returns, as far as it is used."""

    column_names = ("image", "label")

    def __init__(self, numbers: list[int]) -> None:
        self.numbers = numbers
        self.features = {"label": type("ClassLabel", (), {"names": ["even", "odd"]})()}

    def __getitem__(self, key: Any) -> Any:
        if key == "label":
            return [number % 2 for number in self.numbers]
        return {"image": Image.new("RGB", (5, 5), (self.numbers[key],) * 3)}


def test_a_hugging_face_set_is_read_split_by_split(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str]] = []

    def load_dataset(name: str, revision: str, split: str) -> Table:
        asked.append((name, revision, split))
        return Table([1, 2, 3, 4] if split == "train" else [7, 8])

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    data = HuggingFace(2, "somebody/pets", revision="abc", test="validation", side=5)
    data.setup()
    assert asked == [("somebody/pets", "abc", "train"), ("somebody/pets", "abc", "validation")]
    assert data.spec.classes == ("even", "odd")
    assert sorted(values(data, "train")) == [1, 2, 3, 4]
    assert [value % 2 for value in values(data, "test")] == data.splits["test"][1].tolist()


def test_a_missing_package_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    told = HuggingFace(2, "somebody/pets", revision="abc").available()
    assert told == "the package datasets is not installed: .venv/bin/python -m pip install datasets"


def write_table(folder: Path, text: str) -> OwnImages:
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return PhotoTable(2, str(folder), side=4)


def write_arrays(folder: Path, **arrays: Any) -> OwnImages:
    np.savez(folder / "images.npz", **arrays)
    return PhotoArrays(2, str(folder))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: PhotoFolder(2, str(folder / "nothing")), "no such folder; expected"),
        (lambda folder: PhotoFolder(2, str(folder / "cat")), "stands elsewhere"),
        (lambda folder: write_table(folder, "path,label\n"), "no column 'file'; it has path, label"),
        (lambda folder: write_table(folder, "file,label\n../x.png,a\n"), "line 2: ../x.png leads out of"),
        (lambda folder: write_table(folder, "file,label\ncat/99.png,a\n"), "cat/99.png: no such file"),
        (lambda folder: write_table(folder, "file,label\ncat/01.png,a\ncat/02.png,a\n"), "1 class(es); expected two"),
        (lambda folder: write_table(folder, "file,label\ncat/01.png,a\ncat/02.png,b\n"), "class 'a' has 0 training"),
        (lambda folder: write_arrays(folder, labels=[1, 2]), "no array 'images'; it has labels"),
        (lambda folder: write_arrays(folder, images=np.zeros((2, 4, 4)), labels=[1, 2]), "images is float64 (2, 4, 4)"),
        (lambda folder: write_arrays(folder, images=np.zeros((2, 4, 4), np.uint8), labels=[1]), "expected (2,)"),
    ],
)
def test_what_is_wrong_is_one_line(folder: Path, make: Callable[[Path], OwnImages], words: str) -> None:
    data = make(folder)
    told = data.available()
    assert words in told
    assert "\n" not in told
    assert data.available() == told  # asked again, it is as wrong


def test_a_pickled_archive_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", images=np.array([{}], dtype=object), labels=[1])
    assert "no archive of plain arrays" in PhotoArrays(2, str(tmp_path)).available()


def test_a_damaged_file_is_named(folder: Path) -> None:
    (folder / "cat" / "01.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cat/01\.png is damaged or no image"):
        PhotoFolder(2, str(folder), side=4).setup()


def test_more_images_than_there_are_is_an_error(folder: Path) -> None:
    with pytest.raises(DataError, match="photos has 12 \\+ 4 images; cannot take train=12, val=1"):
        PhotoFolder(2, str(folder), side=4, train_size=12, val_size=1).setup()
