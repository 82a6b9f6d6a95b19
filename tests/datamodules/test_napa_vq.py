"""Classes that arrive in tasks: which images, which labels, in memory and in folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.transforms.v2 import functional as tv

from datamodules.common.base import DataError, Draws
from datamodules.common.digits import Digits
from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.napa_vq import (
    Brightness,
    GarmentsAndDigits,
    Incremental,
    IncrementalFolder,
    PlainFolder,
    class_incremental,
    class_order,
    classes_at,
)


def digits() -> Digits:
    return Digits(32, 1000, 0, 600, seed=3)


def incremental(task: int, **options: object) -> Incremental:
    return Incremental(digits(), 50, [4, 2, 2, 2], task, order_seed=7, **options)  # type: ignore[arg-type]


def photos(root: Path, classes: int = 5, train: int = 4, test: int = 2, side: int = 12) -> Path:
    """Images of one grey level per class, so that a label can be read off the image."""
    for split, count in (("train", train), ("val", test)):
        for c in range(classes):
            folder = root / split / f"n{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.full((side, side, 3), 40 * c + i, dtype=np.uint8)).save(folder / f"{i}.png")
    return root


def folder(root: Path, task: int, **options: object) -> IncrementalFolder:
    source = PlainFolder(str(root), 4, {"classes": 5, "train": 20, "test": 10}, image_size=8, num_workers=0)
    data = class_incremental(source, 3, [2, 1, 2], task, order_seed=1, **options)  # type: ignore[arg-type]
    assert isinstance(data, IncrementalFolder)
    return data


def test_the_order_is_that_of_the_literature() -> None:
    assert class_order(100, 1993)[:10] == [68, 56, 78, 8, 23, 84, 90, 65, 74, 76]
    state = np.random.get_state()[1].copy()  # type: ignore[union-attr]
    assert sorted(class_order(100, 1993)) == class_order(100, None) == list(range(100))
    assert np.array_equal(state, np.random.get_state()[1])  # type: ignore[arg-type]


def test_sizes_of_the_published_protocols() -> None:
    tasks = [40, *[3] * 20]
    seen = [len(classes_at(t, tasks, 100, 1993)[1]) for t in range(21)]
    assert seen == list(range(40, 101, 3))
    new = [c for t in range(21) for c in classes_at(t, tasks, 100, 1993)[0]]
    assert new == class_order(100, 1993)


@pytest.mark.parametrize("task", range(4))
def test_trains_on_the_task_and_tests_on_all_seen(task: int) -> None:
    data, order = incremental(task), class_order(10, 7)
    data.setup()
    source = digits()
    source.setup()
    first, seen = [0, 4, 6, 8][task], [4, 6, 8, 10][task]
    assert data.splits["train"][1].unique().tolist() == list(range(first, seen))
    assert data.splits["test"][1].unique().tolist() == list(range(seen))
    assert data.spec.classes == tuple(str(c) for c in order[:seen])
    for name, low in (("train", first), ("test", 0)):
        images, labels = source.splits[name]
        for label in range(low, seen):
            ours = data.splits[name][0][data.splits[name][1] == label]
            assert torch.equal(ours, images[labels == order[label]])
    assert data.spec.sizes == {name: len(labels) for name, (_, labels) in data.splits.items()}


def test_no_image_is_in_two_tasks_or_two_splits() -> None:
    parts = [incremental(task) for task in range(4)]
    for part in parts:
        part.setup()
    train = [{bytes(i.numpy()) for i in part.splits["train"][0]} for part in parts]
    test = {bytes(i.numpy()) for i in parts[-1].splits["test"][0]}
    assert len(set().union(*train)) == sum(map(len, train))
    assert not test & set().union(*train)


def test_images_per_class_and_the_pass_in_order() -> None:
    data = incremental(1, per_class=20)
    data.setup()
    assert data.splits["train"][1].bincount().tolist() == [0, 0, 0, 0, 20, 20]
    x, y = (torch.cat(parts) for parts in zip(*data.ordered_train_dataloader(), strict=True))
    assert torch.equal(x, data.normalised(data.splits["train"][0]))
    assert torch.equal(y, data.splits["train"][1])


def test_generated_labels_belong_to_the_task() -> None:
    data = incremental(2, generated=True)
    data.setup()
    assert data.spec.source == "generated"
    assert set(data.splits["train"][1].tolist()) == {6, 7}
    assert int(data.splits["test"][1].max()) <= 7
    assert torch.equal(data.clean_labels, data.splits["train"][1])  # no label is replaced


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="has tasks 0 to 3"):
        incremental(4)
    with pytest.raises(DataError, match="at most 10 classes"):
        Incremental(digits(), 4, [8, 3], 0)
    with pytest.raises(DataError, match="per_class asks for 5000"):
        incremental(0, per_class=5000).setup()


def test_folders_are_cut_alike(tmp_path: Path) -> None:
    root, order = photos(tmp_path / "five"), class_order(5, 1)
    for task, (first, seen) in enumerate([(0, 2), (2, 3), (3, 5)]):
        data = folder(root, task)
        data.setup()
        assert data.spec.sizes == {"train": 4 * (seen - first), "test": 2 * seen}
        assert data.spec.classes == tuple(f"n{c}" for c in order[:seen])
        for loader, low in ((data.train_dataloader(), first), (data.test_dataloader(), 0)):
            x, y = (torch.cat(parts) for parts in zip(*loader, strict=True))
            grey = (
                x * torch.tensor(data.spec.std).view(1, 3, 1, 1) + torch.tensor(data.spec.mean).view(1, 3, 1, 1)
            ) * 255
            assert sorted(set(y.tolist())) == list(range(low, seen))
            assert [order[label] for label in y.tolist()] == (grey[:, 0, 0, 0].round() / 40).int().tolist()
    assert len(list(data.ordered_train_dataloader())) == 3


def test_plain_folders_are_whole_in_training_and_cut_to_the_centre_in_tests(tmp_path: Path) -> None:
    root = photos(tmp_path / "five")
    source = PlainFolder(str(root), 4, {"classes": 5, "train": 20, "test": 10}, image_size=8, num_workers=0)
    picture = Image.fromarray((np.arange(12 * 12 * 3) % 256).astype(np.uint8).reshape(12, 12, 3))
    exact = tv.pil_to_tensor(picture)
    assert torch.equal(source.transform(train=False)(picture), exact[:, 2:10, 2:10])
    whole = source.transform(train=True)(picture)
    assert torch.equal(whole, exact) or torch.equal(whole, exact.flip(-1))


def test_folders_can_be_stood_in_for(tmp_path: Path) -> None:
    data = folder(tmp_path / "missing", 1, generated=True)
    data.setup()
    assert data.spec.sizes == {"train": 4, "test": 6}
    assert {int(label) for _, y in data.train_dataloader() for label in y} == {2}
    assert min(int(label) for _, y in data.test_dataloader() for label in y) == 0
    assert "does not exist" in folder(tmp_path / "missing", 1).available()


def test_brightness_is_torchvisions() -> None:
    images = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    ours = Brightness(0.247)(images, Draws(torch.Generator().manual_seed(1), 6, 0, 6))
    factors = 1 - 0.247 + 2 * 0.247 * torch.rand(6, generator=torch.Generator().manual_seed(1))
    assert float(factors.min()) < 1 < float(factors.max())
    for image, factor, result in zip(images, factors.tolist(), ours, strict=True):
        assert torch.allclose(result, tv.adjust_brightness(image, factor), atol=1e-6)


def test_images_are_brightened_on_their_own_device() -> None:
    """The meta device holds shapes alone, and refuses what lies elsewhere."""
    images = torch.zeros(6, 3, 4, 4, device="meta")
    assert Brightness(0.2)(images, Draws(torch.Generator().manual_seed(1), 6, 0, 6)).device.type == "meta"


def test_garments_and_digits_are_both_sets_side_by_side() -> None:
    data = GarmentsAndDigits(50)
    data.setup()
    garments = FashionMNIST(50)
    garments.setup()
    images, labels = data.splits["test"]
    assert torch.equal(images[:2000], garments.splits["test"][0])
    assert torch.equal(labels[:2000], garments.splits["test"][1])
    assert int(data.splits["train"][1].bincount().min()) >= 120
    assert data.spec.where.startswith("comes with the install")

    scan = torch.as_tensor(load_digits().images[-1], dtype=torch.uint8)
    assert int(labels[-1]) == 10 + int(load_digits().target[-1])
    shown = Image.fromarray((scan * 15.9375).round().to(torch.uint8).numpy()).resize(
        (28, 28), Image.Resampling.BILINEAR
    )
    assert (images[-1, 0].int() - torch.as_tensor(np.array(shown)).int()).abs().max() <= 1
