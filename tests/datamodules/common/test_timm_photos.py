"""timm's augmentation: fixed by the seed, repeated, resumable, with timm's own pipelines and test crop."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform

from datamodules.common.base import DataError
from datamodules.common.timm_photos import Augmentation, AugmentedImageNet, Normalisation, RepeatedAugmentation

PHOTOS = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
WNIDS = ImageNetInfo().label_names()[:2]


def picture(seed: int = 0, width: int = 50, height: int = 40) -> Image.Image:
    small = Image.fromarray(np.random.RandomState(seed).randint(0, 256, (5, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> str:
    for split, count in (("train", 10), ("val", 2)):
        for label, wnid in enumerate(WNIDS):
            folder = tmp_path / split / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                picture(100 * label + number + 1000 * (split == "val")).save(folder / f"{number}.png")
    return str(tmp_path)


def data(root: str, augmentation: Augmentation | None = None, **options: Any) -> AugmentedImageNet:
    module = AugmentedImageNet(root, 6, 32, augmentation, num_workers=0, **options)
    module.setup()
    return module


def first(made: AugmentedImageNet, epoch: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    loader = made.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return next(iter(loader))


def repeated(**options: Any) -> RepeatedAugmentation:
    return RepeatedAugmentation(30, 3, 8, **{"seed": 0, "rank": 0, "world": 1, **options})


def test_a_third_of_the_images_three_times() -> None:
    batches = repeated()
    indices = [index for share in batches for index in share.indices.tolist()]
    assert len(indices) == len(set(indices)) == 30  # copies differ, so that their augmentation does
    for place in range(0, 30, 3):
        image = indices[place]
        assert indices[place : place + 3] == [image, image + 30, image + 60]
        assert image < 30
    batches.set_epoch(1)
    assert [index for share in batches for index in share.indices.tolist()] != indices
    once = RepeatedAugmentation(30, 1, 8, seed=0, rank=0, world=1)
    assert sorted(index for share in once for index in share.indices.tolist()) == list(range(30))
    with pytest.raises(DataError, match="repeats=0"):
        RepeatedAugmentation(30, 0, 8, seed=0, rank=0, world=1)


def test_repeated_augmentation_is_shared_out_and_resumed() -> None:
    whole = [share.indices.tolist() for share in repeated()]
    halves = [[share.indices.tolist() for share in repeated(rank=r, world=2)] for r in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    later = repeated()
    later.load_state_dict({"position": 2})
    assert [share.indices.tolist() for share in later] == whole[2:]


def test_training_is_timms_and_a_function_of_the_seed_alone() -> None:
    image, ours = picture(), Augmentation().transform(32, PHOTOS, train=True)
    theirs = create_transform(
        32, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", interpolation="random", re_prob=0.25, re_mode="pixel"
    )
    seen = set()
    for seed in range(8):
        random.seed(seed + 100)  # whatever the global states are
        np.random.seed(seed + 100)
        states = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
        torch.manual_seed(seed)
        own = ours(image)
        assert random.getstate() == states[0]
        assert np.random.get_state()[1].tolist() == states[1]  # type: ignore[index, union-attr]
        torch.manual_seed(seed)
        chosen = int(torch.randint(2**31, ()))
        random.seed(chosen)
        np.random.seed(chosen)
        assert torch.equal(theirs(image), own)
        seen.add(own.numpy().tobytes())
    assert len(seen) == 8


def test_every_part_of_the_augmentation_is_there(photos: str) -> None:
    plain = first(data(photos, Augmentation(auto_augment=None, color_jitter=0.0, erasing=0.0)))[0]
    for part in ({"auto_augment": "rand-m9-mstd0.5-inc1"}, {"erasing": 1.0}, {"color_jitter": 0.4}):
        options: dict[str, Any] = {"auto_augment": None, "color_jitter": 0.0, "erasing": 0.0, **part}
        assert not torch.equal(first(data(photos, Augmentation(**options)))[0], plain)
    stages = [type(stage).__name__ for stage in data(photos).transform(train=True).transform.transforms]
    assert stages[:3] == ["RandomResizedCropAndInterpolation", "RandomHorizontalFlip", "RandAugment"]
    assert "ColorJitter" not in stages  # timm's rule beside a policy
    assert stages[-2:] == ["Normalize", "RandomErasing"]


def test_the_strongest_posterize_is_black() -> None:
    """At magnitude 10 timm asks for 0 bits, which newer Pillows refuse; older ones gave a black image."""
    transform = Augmentation().transform(32, PHOTOS, train=True).transform
    (augment,) = (step for step in transform.transforms if hasattr(step, "ops"))
    (operation,) = (op for op in augment.ops if op.name == "PosterizeIncreasing")
    operation.prob, operation.magnitude, operation.magnitude_std = 1.0, 10, 0
    assert np.asarray(operation(picture())).max() == 0
    operation.magnitude = 5
    assert set(np.asarray(operation(picture())).ravel() % 64) == {0}  # 4 - int(5 / 10 * 4) = 2 bits


@pytest.mark.parametrize(("size", "crop_pct"), [(224, 0.875), (224, 0.95), (384, 1.0)])
def test_evaluation_is_timms(size: int, crop_pct: float) -> None:
    image = picture(3, 300, 260)
    theirs = create_transform(size, is_training=False, interpolation="bicubic", crop_pct=crop_pct)
    ours = Augmentation(crop_pct).transform(size, PHOTOS, train=False)
    assert torch.equal(ours(image), theirs(image))


def test_a_fraction_of_each_class(photos: str) -> None:
    chosen = []
    for seed in (0, 0, 1):
        part = data(photos, fraction=0.3, seed=seed)
        assert part.spec.sizes == {"train": 6, "test": 4}
        assert [label for _, label in part.items["train"]] == [0, 0, 0, 1, 1, 1]
        chosen.append({name for name, _ in part.items["train"]})
    assert chosen[0] == chosen[1] != chosen[2]
    assert "30% of each training class" in part.spec.name


def test_copies_of_a_photo_are_augmented_differently_and_epochs_repeat(photos: str) -> None:
    thrice = Augmentation(repeats=3)
    repeated = data(photos, thrice)
    x, y = first(repeated)
    assert y.tolist() == [int(y[0])] * 3 + [int(y[3])] * 3
    assert not torch.equal(x[0], x[1])
    random.seed(7)
    torch.manual_seed(7)
    assert torch.equal(first(repeated)[0], x)
    assert not torch.equal(first(repeated, 1)[0], x)
    assert not torch.equal(first(data(photos, thrice, seed=1))[0], x)
    assert sum(len(labels) for _, labels in repeated.train_dataloader()) == 20


def test_generated_data_has_the_declared_shape() -> None:
    photos = AugmentedImageNet("nowhere", 4, 64, fraction=0.1, generated=True)
    photos.setup()
    assert next(iter(photos.train_dataloader()))[0].shape == (4, 3, 64, 64)
    assert photos.spec.sizes["train"] == 128_117


@pytest.mark.parametrize(
    "options",
    [
        {"interpolation": "nearest"},
        {"erasing_mode": "black"},
        {"erasing": 2.0},
        {"crop_pct": 0.0},
        {"repeats": 0},
    ],
    ids=str,
)
def test_wrong_strengths_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=f"{next(iter(options))}="):
        Augmentation(**options)


def test_a_wrong_fraction_is_named() -> None:
    with pytest.raises(DataError, match=r"fraction=0.0: expected a number in \(0, 1\]"):
        AugmentedImageNet("nowhere", 4, fraction=0.0)


def test_an_augmentation_has_the_images_normalisation_or_its_own(photos: str) -> None:
    """Halves leave pixels of [0, 1] in [-1, 1]: twice the pixel less 1."""
    half = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    image = picture()
    ours, plain = (
        Augmentation(normalisation=own).transform(32, Normalisation((0.0,) * 3, (1.0,) * 3), train=False)(image)
        for own in (half, None)
    )
    assert torch.allclose(ours, 2 * plain - 1)
    assert (data(photos).spec.mean, data(photos).spec.std) == (PHOTOS.mean, PHOTOS.std)
    assert data(photos, Augmentation(normalisation=half)).spec.mean == (0.5, 0.5, 0.5)
