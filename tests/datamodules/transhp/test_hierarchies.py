"""Coarse classes: the tables, the file of WordNet ancestors, and the datamodule that serves them."""

from __future__ import annotations

import csv
import hashlib
import os
import pickle
from pathlib import Path

import pytest
import torch

from datamodules.common.base import DataError
from datamodules.common.folders import ImageNet
from datamodules.common.torchvision_sets import CIFAR10, FashionMNIST
from datamodules.transhp import hierarchies
from datamodules.transhp.hierarchies import Hierarchical, WordNet, Written, levels
from datamodules.transhp.shapes import Shapes

ROOT = Path(os.environ.get("REPRISE_DATA", "data"))
NOWHERE = Path("nowhere")


def test_fashion_mnist_by_hand() -> None:
    table = hierarchies.fashion_mnist().table(NOWHERE)[:, 0].tolist()
    # T-shirt, trouser, pullover, dress, coat, sandal, shirt, sneaker, bag, ankle boot
    assert table == [0, 1, 0, 2, 0, 3, 0, 3, 4, 3]


def test_cifar_10_by_hand() -> None:
    # airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck
    assert hierarchies.cifar10().table(NOWHERE)[:, 0].tolist() == [0, 1, 2, 3, 4, 3, 4, 4, 0, 1]


def test_shapes_have_four_classes_each() -> None:
    assert hierarchies.shapes().table(NOWHERE)[:, 0].tolist() == [label // 4 for label in range(20)]


def test_cifar_100_has_five_classes_in_each_of_its_superclasses() -> None:
    known = hierarchies.cifar100()
    table = known.table(NOWHERE)[:, 0]
    assert table.bincount().tolist() == [5] * 20
    assert known.prompts == [20]
    # apple, aquarium_fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle; woman and worm
    assert table[:10].tolist() == [4, 1, 14, 8, 0, 6, 7, 7, 18, 3]
    assert table[-2:].tolist() == [14, 13]


def test_cifar_100_agrees_with_the_dataset() -> None:
    path = ROOT / "cifar-100-python" / "train"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    stored = pickle.loads(path.read_bytes(), encoding="latin1")
    table = hierarchies.cifar100().table(NOWHERE)[:, 0]
    assert torch.equal(table[torch.tensor(stored["fine_labels"])], torch.tensor(stored["coarse_labels"]))


def test_a_class_in_no_group_is_named() -> None:
    with pytest.raises(DataError, match="'c' is not in exactly one"):
        Written({"x": ("a",), "y": ("b",)}, ["a", "b", "c"])
    with pytest.raises(DataError, match="'a' is not in exactly one"):
        Written({"x": ("a",), "y": ("a", "b")}, ["a", "b"])


def test_the_finest_level_comes_first_in_the_file_and_last_here() -> None:
    table = levels({1: [3, -1, 0], 0: [-1, 1, 1]}, (2, 4, 9))
    assert table.tolist() == [[1, 1, 9], [0, 4, 3]]  # -1 becomes one more class: 4 of 4, 9 of 9


def written(path: Path) -> str:
    """A file of the released layout with made-up ancestors; returns its hash."""
    rows = [
        [number, *[number % m if number % 7 else -1 for m in reversed(hierarchies.WORDNET)]] for number in range(1000)
    ]
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([list(range(12)), *rows[::-1]])
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_word_net_is_read_checked_and_reversed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = WordNet()
    assert known.prompts == [3, 3, 3, 5, 10, 17, 26, 50, 91, 171, 407]
    with pytest.raises(DataError, match=r"hi_label_idx.csv is missing; get it from github.com/WangWenhao0716/TransHP"):
        known.table(tmp_path)
    digest = written(tmp_path / "hi_label_idx.csv")
    with pytest.raises(DataError, match=f"sha256 {digest}, expected 523c14ee"):
        known.table(tmp_path)
    monkeypatch.setattr(hierarchies, "WORDNET_SHA256", digest)
    table = known.table(tmp_path)
    assert table.shape == (1000, 11)
    assert table[0].tolist() == list(hierarchies.WORDNET)  # no ancestor at all
    assert table[405].tolist() == [405 % m for m in hierarchies.WORDNET]
    assert all(int(column.max()) < m for column, m in zip(table.T, known.prompts, strict=True))


def test_the_released_file() -> None:
    """Counts of the file that comes with the paper's code."""
    if problem := WordNet().available(ROOT / "labels"):
        pytest.skip(problem)
    table = WordNet().table(ROOT / "labels")
    missing = [int((column == m).sum()) for column, m in zip(table.T, hierarchies.WORDNET, strict=True)]
    assert missing == [264, 433, 780, 840, 734, 455, 494, 507, 586, 537, 340]
    used = [len(set(column.tolist()) - {m}) for column, m in zip(table.T, hierarchies.WORDNET, strict=True)]
    assert used == [2, 2, 2, 4, 9, 15, 24, 47, 83, 162, 400]


def fashion(**options: object) -> Hierarchical:
    source = FashionMNIST(7, train_size=100, val_size=50, test_size=60)
    return Hierarchical(source, hierarchies.fashion_mnist(), 32, **options)  # type: ignore[arg-type]


def test_batches_hold_the_coarse_class_of_their_label() -> None:
    data = fashion()
    data.setup()
    table = hierarchies.fashion_mnist().table(NOWHERE)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for x, y, coarse in loader:
            assert len(x) == len(y) <= 32
            assert torch.equal(coarse, table[y])
    assert data.spec == data.source.spec
    assert data.prompts == [5]


def test_the_source_serves_the_same_images_and_the_loader_can_start_in_mid_epoch() -> None:
    data, plain = fashion(), FashionMNIST(32, train_size=100, val_size=50, test_size=60)
    data.setup()
    plain.setup()
    ours, theirs = list(data.train_dataloader()), list(plain.train_dataloader())
    assert all(torch.equal(a[0], b[0]) for a, b in zip(ours, theirs, strict=True))
    loader = data.train_dataloader()
    loader.load_state_dict({"position": 2})
    rest = list(loader)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(rest, ours[2:], strict=True))
    assert loader.state_dict() == {"position": 0}


def test_generated_data_needs_no_file() -> None:
    data = Hierarchical(ImageNet("nowhere", 2, image_size=32), WordNet(), 4, root="nowhere", skip=9, generated=True)
    assert "nowhere" in data.available()
    assert "hi_label_idx.csv" in data.available()
    data.setup()
    x, _, coarse = next(iter(data.train_dataloader()))
    assert x.shape == (4, 3, 32, 32)
    assert coarse.shape == (4, 2)
    assert data.prompts == [171, 407]
    assert data.names == WordNet().names[9:]
    assert int(coarse.max()) < 407
    assert data.spec.source == "generated"


def test_another_dataset_is_refused() -> None:
    with pytest.raises(DataError, match="CIFAR-10 has 10 classes, the hierarchy 20"):
        Hierarchical(CIFAR10(4, root="nowhere", generated=True), hierarchies.shapes(), 4, generated=True).setup()
    with pytest.raises(DataError, match="skip=1: the hierarchy has 1 levels"):
        Hierarchical(Shapes(4), hierarchies.shapes(), 4, skip=1)


def test_label_files_are_looked_for_beside_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = Hierarchical(ImageNet("nowhere", 2, image_size=32), WordNet(), 4)
    assert "data/labels/hi_label_idx.csv is missing" in data.available()
