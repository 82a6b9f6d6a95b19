"""Few labels and many images without, in turns; the judge's own images; MedMNIST's files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.common.base import DataError
from datamodules.common.digits import Digits
from datamodules.sparse.equal_updates import EqualUpdates, equal_passes
from datamodules.sparse.few_shot import UNLABELLED, FewShot, JudgeImages, Passes, Turns, framed
from datamodules.sparse.medmnist import SETS, MedMNIST

ROOT = Path(os.environ.get("REPRISE_DATA", "data"))
Write = Callable[..., Path]


def few(seed: int = 3, **options: Any) -> FewShot:
    settings = {"per_class": 5, "unlabelled": 200, "mu": 2, "passes": 4, **options}
    return FewShot(Digits(32, 1000, 100, 600, seed=seed), 24, **settings)


def contents(images: torch.Tensor) -> set[bytes]:
    return {bytes(image.numpy()) for image in images}


def test_each_class_has_its_shots_and_no_other_label_is_served() -> None:
    data = few()
    assert data.spec.sizes == {"train": 250, "val": 100, "test": 600}
    data.setup()
    assert data.spec.sizes == {"train": 250, "val": 100, "test": 600}
    rows = {True: set(), False: set()}
    for batch in data.train_dataloader():
        labelled = bool(batch.y[0] >= 0)
        rows[labelled] |= set(batch.row.tolist())
        if labelled:
            assert torch.equal(batch.y, batch.truth)
        else:
            assert bool((batch.y == UNLABELLED).all())
            assert torch.equal(batch.truth, data.splits["train"][1][batch.row])
    assert rows[True] <= set(range(50))
    assert rows[False] <= set(range(50, 250))
    assert data.splits["train"][1][:50].bincount().tolist() == [5] * 10


def test_which_images_are_labelled_follows_from_the_seed() -> None:
    first, same, other = few(), few(mu=0), few(seed=4)
    for data in (first, same, other):
        data.setup()
    assert torch.equal(first.splits["train"][0], same.splits["train"][0])
    assert contents(first.splits["train"][0][:50]) != contents(other.splits["train"][0][:50])


def test_passes_come_in_the_papers_order() -> None:
    """Epoch 0 has an unlabelled pass after its labelled one, and then every mu-th."""
    turns = Turns(50, 250, Passes(4, 2, 24, 64), seed=1)
    kinds = ["u" if int(share.indices[0]) >= 50 else "l" for share in turns]
    assert "".join(kinds) == "lluuulllluuull"
    assert len(turns) == len(kinds)
    often = Turns(50, 250, Passes(4, 1, 24, 64), seed=1)
    assert len(often) == len([*often]) == 8 + 4 * 3
    none = Turns(50, 250, Passes(4, 0, 24, 64), seed=1)
    assert len(none) == len([*none]) == 8


def test_labelled_batches_are_the_same_with_and_without_unlabelled_ones() -> None:
    served = []
    for mu in (2, 0):
        turns = Turns(50, 250, Passes(4, mu, 24, 64), seed=1)
        turns.set_epoch(5)
        served.append([(share.indices.tolist(), share.seed) for share in turns if int(share.indices[0]) < 50])
    assert served[0] == served[1]


@pytest.mark.parametrize(
    ("labelled", "unlabelled", "mu", "passes", "expected"),
    [
        (2, 12, 10, 20, 32),  # mini: 24 unlabelled batches beside 40, as many as 12 passes
        (1, 498, 10, 10, 508),  # BloodMNIST, 5 labels a class
        (3, 10, 2, 2, 6),  # 10 batches are 3 1/3 passes: rounded up
        (3, 10, 0, 2, 2),
    ],
)
def test_passes_with_as_many_batches(labelled: int, unlabelled: int, mu: int, passes: int, expected: int) -> None:
    assert equal_passes(labelled, unlabelled, mu, passes) == expected


def test_as_many_updates_are_labelled_ones_alone_and_begin_as_few_shots_do() -> None:
    """Four passes of two batches and two of 200 // 24 = 8 are 24 batches: 12 passes."""
    settings = {"per_class": 5, "unlabelled": 200, "mu": 2, "passes": 4}
    both, alone = few(), EqualUpdates(Digits(32, 1000, 100, 600, seed=3), 24, **settings)
    served = []
    for data in (both, alone):
        data.setup()
        served.append([*data.train_dataloader()])
    assert [len(batches) for batches in served] == [24, 24]
    assert all(bool((batch.y >= 0).all()) for batch in served[1])
    first = [batch for batch in served[0] if int(batch.y[0]) >= 0]
    assert len(first) == 8
    assert all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in zip(first, served[1][:8], strict=True))


def test_turns_go_on_after_a_kill_and_are_shared_out() -> None:
    def epoch(rank: int, world: int, skip: int = 0) -> list[torch.Tensor]:
        turns = Turns(50, 250, Passes(4, 2, 24, 64), seed=1, rank=rank, world=world)
        turns.set_epoch(3)
        turns.load_state_dict({"position": skip})
        return [share.indices for share in turns]

    whole = epoch(0, 1)
    assert all(torch.equal(a, b) for a, b in zip(epoch(0, 1, skip=5), whole[5:], strict=True))
    halves = zip(epoch(0, 2), epoch(1, 2), strict=True)
    assert all(torch.equal(torch.cat(pair), both) for pair, both in zip(halves, whole, strict=True))


def test_labelled_batches_are_no_larger_than_the_labelled_images() -> None:
    turns = Turns(10, 100, Passes(10, 10, 24, 24), seed=1)
    sizes = [share.total for share in turns]
    assert sizes == [10] + [24] * 3 + [10] * 9


def test_the_judge_sees_no_image_that_another_stage_trains_on() -> None:
    data, judge = few(unlabelled=None), JudgeImages(Digits(32, 1000, 100, 600, seed=3), 32)
    data.setup()
    judge.setup()
    assert judge.spec.sizes == {"train": 100, "val": 0, "test": 600}
    assert not contents(data.splits["train"][0]) & contents(judge.splits["train"][0])
    assert len(data.splits["train"][0]) == 1000


def test_images_are_shrunk_framed_and_repeated() -> None:
    images = torch.tensor([[0, 100], [101, 200]], dtype=torch.uint8).expand(1, 1, 2, 2)
    made = framed(images, 2, 3, 3)
    assert made.shape == (1, 3, 3, 3)
    assert made[0, 2].tolist() == [[0, 0, 0], [0, 100, 0], [0, 0, 0]]
    data = few(side=10, channels=3)
    data.setup()
    assert data.spec.shape == next(iter(data.test_dataloader())).x.shape[1:] == (3, 10, 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_class": 0}, "per_class=0: expected 1 or more"),
        ({"mu": 3}, "mu=3: expected 0, or a number that divides passes=4"),
        ({"unlabelled": 5000}, "unlabelled=5000: expected 1 to 950"),
        ({"per_class": 100, "unlabelled": None}, "unlabelled=None: expected 1 to 0"),
        ({"side": 4}, "side=4: expected 8 or more"),
        ({"shrink": 0}, "shrink=0: expected 1 to 8"),
        ({"side": 10, "channels": 0}, None),
    ],
)
def test_wrong_numbers(options: dict[str, Any], message: str | None) -> None:
    if message is None:
        few(**options)
        return
    with pytest.raises(DataError, match=message):
        few(**options)


def test_a_class_with_too_few_images(medmnist: Write) -> None:
    labels = np.zeros((40, 1), np.uint8)
    labels[:3] = 1
    source = MedMNIST(8, "breastmnist", str(medmnist(train_labels=labels)), side=6)
    with pytest.raises(DataError, match="per_class=5: a class of breastmnist, 6 pixels has 3 images"):
        FewShot(source, 8, per_class=5).setup()


def test_a_set_is_read_with_its_own_splits(medmnist: Write) -> None:
    data = MedMNIST(8, "breastmnist", str(medmnist()), side=6)
    data.setup()
    assert data.spec.sizes == {"train": 40, "val": 12, "test": 20}
    assert data.splits["train"][0].shape == (40, 1, 6, 6)
    assert data.splits["val"][1].tolist() == [0, 1] * 6


def test_images_of_another_size_are_resized_and_the_wanted_size_is_preferred(medmnist: Write) -> None:
    root = str(medmnist("bloodmnist", channels=3))
    data = MedMNIST(8, "bloodmnist", root, side=12)
    data.setup()
    assert data.splits["test"][0].shape == (20, 3, 12, 12)
    medmnist("bloodmnist", channels=3, side=12, file="bloodmnist_12.npz")
    assert data.file.name == "bloodmnist_12.npz"


def test_images_are_never_enlarged_from_a_file_of_28_pixels(medmnist: Write) -> None:
    root = str(medmnist("bloodmnist", channels=3))
    data = MedMNIST(8, "bloodmnist", root, side=128)
    assert "bloodmnist_128.npz is missing" in data.available()
    assert "bloodmnist.npz has 28 pixels, which are not enlarged" in data.available()
    with pytest.raises(DataError, match=r"bloodmnist_128\.npz is missing"):
        data.setup()
    medmnist("bloodmnist", channels=3, file="bloodmnist_224.npz")
    assert data.file.name == "bloodmnist_224.npz"
    assert data.available() == ""


def test_any_finding_is_one_class(medmnist: Write) -> None:
    labels = np.zeros((40, 14), np.uint8)
    labels[5, 3] = labels[5, 9] = labels[7, 0] = 1
    others = {f"{part}_labels": np.zeros((count, 14), np.uint8) for part, count in {"val": 12, "test": 20}.items()}
    data = MedMNIST(8, "chestmnist", str(medmnist("chestmnist", train_labels=labels, **others)), side=6)
    data.setup()
    assert data.splits["train"][1].nonzero().flatten().tolist() == [5, 7]


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"val_labels": None}, "has no val_labels"),
        (
            {"train_images": np.zeros((40, 6, 6), np.float32)},
            r"train_images is float32 .*; expected uint8 \(N, H, W\)$",
        ),
        ({"train_images": np.zeros((40, 6, 6, 3), np.uint8)}, "train_images is uint8"),
        ({"test_labels": np.zeros((3, 1), np.uint8)}, "test_labels is uint8"),
        ({"test_labels": np.zeros((20, 1), np.float32)}, "test_labels is float32"),
        ({"test_labels": np.full((20, 1), 9, np.uint8)}, "test_labels from 9 to 9; expected 0 to 1"),
        ({"test_labels": np.zeros((20, 2), np.uint8)}, "test_labels has 2 columns; expected 1"),
        ({"train_labels": np.array([{"a": 1}] * 40, dtype=object)}, "is damaged"),
    ],
)
def test_files_that_hold_something_else(medmnist: Write, replaced: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        MedMNIST(8, "breastmnist", str(medmnist(**replaced)), side=6).setup()


def test_files_that_are_damaged_or_missing(medmnist: Write, tmp_path: Path) -> None:
    path = medmnist() / "breastmnist.npz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"breastmnist\.npz is damaged"):
        MedMNIST(8, "breastmnist", str(tmp_path), side=6).setup()
    missing = MedMNIST(8, "octmnist", str(tmp_path))
    assert "octmnist.npz is missing" in missing.available()
    with pytest.raises(DataError, match="name='retina': expected one of bloodmnist"):
        MedMNIST(8, "retina", str(tmp_path))


@pytest.mark.skipif(not (ROOT / "medmnist" / "pneumoniamnist.npz").is_file(), reason="needs PneumoniaMNIST")
def test_five_shots_of_pneumonia() -> None:
    source = MedMNIST(24, "pneumoniamnist", str(ROOT / "medmnist"))
    data = FewShot(source, 24, per_class=5, unlabelled=1000, shrink=2, side=16)
    data.setup()
    assert data.splits["train"][1][:10].bincount().tolist() == [5, 5]
    assert data.spec.sizes == {"train": 1010, "val": 524, "test": 624}
    assert data.spec.shape == (1, 16, 16)
    assert next(iter(data.train_dataloader())).x.shape == (10, 1, 16, 16)


def test_the_eleven_sets() -> None:
    classes = {name: len(described.classes) for name, described in SETS.items()}
    assert classes == {
        "bloodmnist": 8,
        "breastmnist": 2,
        "chestmnist": 2,
        "dermamnist": 7,
        "octmnist": 4,
        "organamnist": 11,
        "organcmnist": 11,
        "organsmnist": 11,
        "pathmnist": 9,
        "pneumoniamnist": 2,
        "tissuemnist": 8,
    }


def test_generated_images_have_labelled_and_unlabelled_ones() -> None:
    data = FewShot(MedMNIST(4, "bloodmnist", "nowhere", side=16, generated=True), 4, per_class=5, channels=3)
    data.setup()
    kinds = {bool(batch.y[0] >= 0) for batch in data.train_dataloader()}
    assert kinds == {True, False}
