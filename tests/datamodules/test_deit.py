"""DeiT's augmentation: repeated, reproducible, and a test crop that is the usual one."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from datamodules.base import DataError
from datamodules.deit import DeitArrays, DeitImageNet, RepeatedAugmentation, transform
from datamodules.torchvision_sets import CIFAR100

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WNIDS = ("n01440764", "n01443537")


def picture(seed: int, width: int = 50, height: int = 40) -> Image.Image:
    source = np.random.RandomState(seed)
    small = Image.fromarray(source.randint(0, 256, (5, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split, count in (("train", 10), ("val", 2)):
        for label, wnid in enumerate(WNIDS):
            folder = tmp_path / split / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                picture(100 * label + number + 1000 * (split == "val")).save(folder / f"{number}.png")
    return tmp_path


def drawn(batches: RepeatedAugmentation) -> list[int]:
    return [index for share in batches for index in share.indices.tolist()]


def test_a_third_of_the_images_three_times() -> None:
    batches = RepeatedAugmentation(30, 3, 8, seed=0, rank=0, world=1)
    indices = drawn(batches)
    assert len(indices) == 30
    assert len(set(indices)) == 30  # copies differ, so that their augmentation does
    for place in range(0, 30, 3):
        image = indices[place]
        assert indices[place : place + 3] == [image, image + 30, image + 60]
        assert image < 30
    batches.set_epoch(1)
    assert drawn(batches) != indices
    assert sorted(drawn(RepeatedAugmentation(30, 1, 8, seed=0, rank=0, world=1))) == list(range(30))
    with pytest.raises(DataError, match="repeats=0"):
        RepeatedAugmentation(30, 0, 8, seed=0, rank=0, world=1)


def test_repeated_augmentation_is_shared_out_and_resumed() -> None:
    whole = [share.indices.tolist() for share in RepeatedAugmentation(30, 3, 8, seed=0, rank=0, world=1)]
    halves = [[s.indices.tolist() for s in RepeatedAugmentation(30, 3, 8, seed=0, rank=r, world=2)] for r in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    later = RepeatedAugmentation(30, 3, 8, seed=0, rank=0, world=1)
    later.load_state_dict({"position": 2})
    assert [share.indices.tolist() for share in later] == whole[2:]


def test_random_states_of_others_are_left_alone() -> None:
    augment = transform(True, 32, MEAN, STD)
    outputs = []
    for other in (1, 2):
        random.seed(other)
        np.random.seed(other)
        before = random.random(), np.random.rand()
        random.seed(other)
        np.random.seed(other)
        torch.manual_seed(5)
        outputs.append(augment(picture(0)))
        assert (random.random(), np.random.rand()) == before
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(augment(picture(0)), outputs[0])


def test_the_recipe_is_in_the_pipeline() -> None:
    words = str(transform(True, 224, MEAN, STD).transform)
    assert "RandAugment(n=2" in words
    assert "AugmentOp" in words
    assert "RandomErasing(p=0.25, mode=pixel, count=(1, 1)" in words
    assert "interpolation=bicubic" in words
    assert "ColorJitter" not in words
    assert "ColorJitter" in str(transform(True, 224, MEAN, STD, auto_augment=None).transform)


def test_the_strongest_posterize_is_black() -> None:
    """At magnitude 10 timm asks for 0 bits, which Pillow 13 refuses; older ones gave a black image."""
    (augment,) = (step for step in transform(True, 32, MEAN, STD).transform.transforms if hasattr(step, "ops"))
    (operation,) = (op for op in augment.ops if op.name == "PosterizeIncreasing")
    operation.prob, operation.magnitude, operation.magnitude_std = 1.0, 10, 0
    assert np.asarray(operation(picture(0))).max() == 0
    operation.magnitude = 5
    assert set(np.asarray(operation(picture(0))).ravel() % 64) == {0}  # 4 - int(5 / 10 * 4) = 2 bits


def test_the_test_crop_is_resize_256_and_centre_224() -> None:
    image = picture(3, 300, 280)
    crop = v2.Compose(
        [v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(224), v2.PILToTensor()]
    )
    expected = (crop(image).float() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    assert torch.allclose(transform(False, 224, MEAN, STD)(image), expected, atol=1e-5)


def test_a_fraction_of_each_class(photos: Path) -> None:
    chosen = []
    for seed in (0, 0, 1):
        data = DeitImageNet(str(photos), 4, 32, num_workers=0, fraction=0.3, seed=seed)
        data.setup()
        assert data.spec.sizes == {"train": 6, "test": 4}
        assert [label for _, label in data.items["train"]] == [0, 0, 0, 1, 1, 1]
        chosen.append({name for name, _ in data.items["train"]})
    assert chosen[0] == chosen[1] != chosen[2]
    assert "30% of each training class" in data.spec.name
    with pytest.raises(DataError, match="fraction=0"):
        DeitImageNet(str(photos), 4, fraction=0.0)


def test_copies_of_a_photo_are_augmented_differently_and_epochs_repeat(photos: Path) -> None:
    data = DeitImageNet(str(photos), 6, 32, num_workers=0)
    data.setup()
    (x, y), *_ = data.train_dataloader()
    assert y.tolist() == [int(y[0])] * 3 + [int(y[3])] * 3
    assert not torch.equal(x[0], x[1])
    assert torch.equal(next(iter(data.train_dataloader()))[0], x)
    assert sum(len(labels) for _, labels in data.train_dataloader()) == 20
    tested = next(iter(data.test_dataloader()))[0]
    assert torch.equal(next(iter(data.test_dataloader()))[0], tested)


def test_arrays_are_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    source = CIFAR100(4, root="nowhere", test_size=5, train_size=9)
    images = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(CIFAR100, "read", lambda self: ((images, torch.arange(20)), (images[:9], torch.arange(9))))
    data = DeitArrays(source, 6, 64, num_workers=0)
    data.setup()
    assert data.spec.shape == (3, 64, 64)
    (x, y), *_ = data.train_dataloader()
    assert x.shape == (6, 3, 64, 64)
    assert y[0] == y[1] == y[2] != y[3]
    assert not torch.equal(x[0], x[1])
    tested = torch.cat([labels for _, labels in data.test_dataloader()])
    assert sorted(tested.tolist()) == sorted(data.source.splits["test"][1].tolist())
    assert data.val_dataloader() == []


def test_generated_data_has_the_declared_shape() -> None:
    made = DeitArrays(CIFAR100(4, root="nowhere"), 4, 64, generated=True)
    made.setup()
    assert next(iter(made.train_dataloader()))[0].shape == (4, *made.spec.shape)
    assert made.spec.source == "generated"
    photos = DeitImageNet("nowhere", 4, 64, fraction=0.1, generated=True)
    photos.setup()
    assert next(iter(photos.train_dataloader()))[0].shape == (4, 3, 64, 64)
    assert photos.spec.sizes["train"] == 128_117
