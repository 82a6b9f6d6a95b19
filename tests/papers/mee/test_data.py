"""Rings, stacks, the judge's digits, and photos that are their own test set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.common.base import DataError
from datamodules.common.digits import Digits
from datamodules.mee.digits import JudgeDigits, StackedDigits
from datamodules.mee.photos import Collection, Portraits, Reference
from datamodules.mee.ring import Ring
from modules.mee.neighbours import Flip, Shift


def digits(seed: int = 0) -> Digits:
    return Digits(32, train_size=1000, val_size=500, test_size=297, seed=seed)


def test_points_of_a_ring() -> None:
    data = Ring(100, train_size=8000, test_size=200, seed=1)
    data.setup()
    x, y = data.splits["train"]
    assert x.shape == (8000, 2)
    assert torch.bincount(y).min() > 850
    for mode in range(8):
        own = x[y == mode]
        assert float(own.mean(0).norm()) == pytest.approx(2.0, abs=0.02)
        assert own.std(0).tolist() == pytest.approx([0.1, 0.1], rel=0.1)
    batches = list(data.test_dataloader())
    assert torch.equal(torch.cat([b.x for b in batches]), data.splits["test"][0])
    (loader,) = data.val_dataloader()
    val = torch.cat([b.x for b in loader])
    assert len(val) == 200
    assert not torch.equal(val, data.splits["test"][0])
    same = Ring(100, train_size=8000, test_size=200, seed=1)
    same.setup()
    assert torch.equal(same.splits["train"][0], x)
    again = Ring(100, train_size=8000, test_size=200, seed=2)
    again.setup()
    assert again.spec.identity != data.spec.identity
    assert not torch.equal(again.splits["train"][0], x)


def test_a_ring_has_as_many_points_as_a_hundred_batches_of_stacks() -> None:
    ring, stacks = Ring(10).spec.sizes, StackedDigits(digits(), 10).spec.sizes
    assert ring["train"] == stacks["train"] == 12_800
    assert ring["val"] == ring["test"] == stacks["test"] == 10_000


def test_wrong_numbers_of_a_ring() -> None:
    with pytest.raises(DataError, match="modes=0: expected a number above 0"):
        Ring(10, modes=0)
    with pytest.raises(DataError, match="test_size=0: expected 1 or more"):
        Ring(10, test_size=0)


def test_a_stack_is_three_digits_and_its_label_their_number() -> None:
    source = digits()
    data = StackedDigits(source, 50, train_size=200, test_size=100)
    data.setup()
    assert data.spec.shape == (3, 8, 8)
    assert len(data.spec.classes) == 1000
    assert data.spec.classes[42] == "042"
    assert data.spec.source == source.spec.source
    served = torch.cat([batch.y for batch in data.train_dataloader()])
    assert torch.equal(served.sort().values, data.splits["train"]["y"].sort().values)
    assert not torch.equal(served, data.splits["train"]["y"])  # shuffled
    for name, loader in (("train", data.train_dataloader()), ("test", data.test_dataloader())):
        images, labels = source.splits[name]
        known = {tuple(image.flatten().tolist()): int(label) for image, label in zip(images, labels, strict=True)}
        for batch in loader:
            assert (float(batch.x.min()), float(batch.x.max())) == (-1.0, 1.0)
            pixels = ((batch.x + 1) * 8).round().long()  # whole numbers from 0 to 16
            for stack, label in zip(pixels, batch.y.tolist(), strict=True):
                hundreds, tens, ones = (known[tuple(channel.flatten().tolist())] for channel in stack)
                assert label == 100 * hundreds + 10 * tens + ones


def test_stacks_are_drawn_by_the_seed() -> None:
    made = [StackedDigits(digits(seed), 50, train_size=200, test_size=100) for seed in (0, 0, 1)]
    for data in made:
        data.setup()
    assert made[0].spec.identity == made[1].spec.identity != made[2].spec.identity
    with pytest.raises(DataError, match="channels=0: expected 1 or more"):
        StackedDigits(digits(), 50, channels=0)


def test_validation_stacks_are_of_digits_of_their_own() -> None:
    plain = StackedDigits(digits(), 50, train_size=200, test_size=100)
    data = StackedDigits(digits(), 50, train_size=200, test_size=100, val_size=60, val_digits=97)
    for made in (plain, data):
        made.setup()
    assert plain.val_dataloader() == []
    assert torch.equal(plain.splits["train"]["rows"], data.splits["train"]["rows"])
    (loader,) = data.val_dataloader()
    seen = {name: torch.cat([b.x for b in part]) for name, part in (("val", loader), ("test", data.test_dataloader()))}
    assert [len(images) for images in seen.values()] == [60, 100]
    known = {name: {d.numpy().tobytes() for d in stacks.flatten(0, 1)} for name, stacks in seen.items()}
    assert len(known["val"]) > 50
    assert not known["val"] & known["test"]
    assert [len(part) for part in data.single_digits()] == [1000, 200]
    for sizes in ({"val_size": 60}, {"val_size": 60, "val_digits": 297}):
        with pytest.raises(DataError, match=r"val_digits=\d+ for val_size=60 stacks: expected from 1 to below the 297"):
            StackedDigits(digits(), 50, **sizes)


def test_nobody_stacks_the_digits_that_the_judge_learns_from() -> None:
    judge, data = JudgeDigits(digits(), 50), StackedDigits(digits(), 50)
    judge.setup()
    data.setup()
    assert judge.spec.sizes == {"train": 500, "val": 0, "test": 297}
    assert (judge.spec.mean, judge.spec.std) == ((0.5,), (0.5,))
    learnt = {image.numpy().tobytes() for image in judge.splits["train"][0]}
    stacked = {image.numpy().tobytes() for image in data.source.splits["train"][0]}
    assert len(learnt) == 500
    assert not learnt & stacked
    batch = next(iter(judge.test_dataloader()))
    assert (float(batch.x.min()), float(batch.x.max())) == (-1.0, 1.0)  # as stacks are


def test_a_reference_is_measured_against_its_training_images() -> None:
    data = Reference(digits(), 32)
    data.setup()
    assert data.spec.sizes == {"train": 1000, "val": 0, "test": 1000}
    train = {image.numpy().tobytes() for image in data.splits["train"][0]}
    assert train == {image.numpy().tobytes() for image in data.splits["test"][0]}
    assert float(next(iter(data.test_dataloader())).x.min()) == -1.0


@pytest.fixture
def portraits(tmp_path: Path) -> Path:
    folder = tmp_path / "faces" / "train" / "any"
    folder.mkdir(parents=True)
    for number in range(6):
        pixels = np.full((20, 10, 3), 40 * number, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "faces"


def test_portraits_are_squeezed_and_some_are_measured_against(portraits: Path) -> None:
    data = Portraits(str(portraits), 2, Collection("faces", train=6, test=4), image_size=16, num_workers=0)
    assert data.available() == ""
    data.setup()
    assert data.spec.sizes == {"train": 6, "test": 4}
    test = torch.cat([batch.x for batch in data.test_dataloader()])
    assert data.val_dataloader() == []  # photos of the test choose nothing
    assert test.shape == (4, 3, 16, 16)
    assert len({float(image[0, 0, 0]) for image in test}) == 4  # without repetition
    chosen = set()
    for seed in range(5):
        other = Portraits(str(portraits), 2, Collection("faces", train=6, test=4), seed=seed, num_workers=0)
        other.setup()
        chosen.add(tuple(other.items["test"]))
    assert len(chosen) > 1
    train = torch.cat([batch.x for batch in data.train_dataloader()])
    assert sorted(round(float((v + 1) / 2 * 255)) for v in train[:, 0, 0, 0]) == [0, 40, 80, 120, 160, 200]
    with pytest.raises(DataError, match=r"holds 6 photos; collection\.test=7 asks for more"):
        Portraits(str(portraits), 2, Collection("faces", train=6, test=7)).setup()


def test_a_dry_run_needs_no_portraits(tmp_path: Path) -> None:
    data = Portraits(str(tmp_path / "none"), 2, Collection("faces", train=1000, test=50), generated=True)
    data.setup()
    assert data.spec.sizes == {"train": 1000, "test": 50}
    assert data.spec.classes == ("photo",)
    assert next(iter(data.train_dataloader())).x.shape == (2, 3, 256, 256)
    assert "faces" in data.available()


def test_neighbours_by_flips() -> None:
    images = torch.randn(3, 2, 4, 5)
    height, width = Flip(["height"], noise=0.0), Flip(["width"], noise=0.0)
    assert torch.equal(height(images), images.flip(-2))
    assert torch.equal(width(images), images.flip(-1))
    both = [Flip(noise=0.0)(images) for _ in range(20)]
    assert {torch.equal(made, images.flip(-1)) for made in both} == {True, False}
    assert float((Flip(["width"])(images) - images.flip(-1)).std()) == pytest.approx(0.001, rel=0.3)
    with pytest.raises(ValueError, match="expected some of height, width"):
        Flip(["depth"])


def test_neighbours_by_shifts() -> None:
    images = torch.randn(3, 2, 4, 5)
    made = {tuple(Shift(noise=0.0)(images).flatten().tolist()) for _ in range(60)}
    edge_row, edge_column = torch.full((3, 2, 1, 5), -1.0), torch.full((3, 2, 4, 1), -1.0)
    expected = [
        torch.cat([edge_row, images[:, :, :-1]], 2),
        torch.cat([images[:, :, 1:], edge_row], 2),
        torch.cat([edge_column, images[..., :-1]], 3),
        torch.cat([images[..., 1:], edge_column], 3),
    ]
    assert made == {tuple(image.flatten().tolist()) for image in expected}


def test_parts_of_a_pixel_lie_between_an_image_and_its_shift() -> None:
    images = torch.randn(2, 1, 4, 4)
    torch.manual_seed(3)
    whole = Shift(noise=0.0)(images)
    torch.manual_seed(3)
    part = Shift(0.25, noise=0.0)(images)
    assert torch.allclose(part, 0.75 * images + 0.25 * whole)
    for pixels in (0.0, 1.5):
        with pytest.raises(ValueError, match="expected a number above 0"):
            Shift(pixels)
