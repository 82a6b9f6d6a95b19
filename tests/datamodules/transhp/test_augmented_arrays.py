"""Small images with timm's augmentation of photos: enlarged, repeated, fixed by seed, epoch and place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from datamodules.common.timm_photos import Augmentation, Normalisation
from datamodules.common.torchvision_sets import CIFAR100
from datamodules.transhp.augmented_arrays import ArrayPhotos, AugmentedArrays

IMAGES = torch.randint(256, (20, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20)


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Nine training images and five test images of CIFAR-100's shape."""
    monkeypatch.setattr(CIFAR100, "read", lambda self: ((IMAGES, LABELS), (IMAGES[:9], LABELS[:9])))

    def make(seed: int = 0, val_size: int = 0, **options: Any) -> AugmentedArrays:
        source = CIFAR100(4, root="nowhere", train_size=9, val_size=val_size, test_size=5, seed=seed)
        arrays = AugmentedArrays(source, 6, 64, num_workers=0, **options)
        arrays.setup()
        return arrays

    return make


def test_training_images_are_enlarged_and_follow_each_other_with_their_copies(data: Any) -> None:
    arrays = data(augmentation=Augmentation(repeats=3))
    assert arrays.spec.shape == (3, 64, 64)
    assert arrays.spec.split.endswith("; side 64")
    (x, y), *_ = arrays.train_dataloader()
    assert x.shape == (6, 3, 64, 64)
    assert y[0] == y[1] == y[2] != y[3]
    assert not torch.equal(x[0], x[1])
    once = torch.cat([labels for _, labels in data().train_dataloader()])
    assert sorted(once.tolist()) == sorted(arrays.source.splits["train"][1].tolist())


def test_test_images_are_timms_evaluation_in_their_order(data: Any) -> None:
    """Bicubic to 64 / 0.875 = 73 pixels, the middle 64, mean and spread of the source."""
    arrays = data()
    spec = arrays.source.spec
    theirs = create_transform(64, interpolation="bicubic", crop_pct=0.875, mean=spec.mean, std=spec.std)
    images, labels = arrays.source.splits["test"]
    (x, y), *rest = arrays.test_dataloader()
    assert not rest
    assert torch.equal(y, labels)
    assert torch.allclose(x, torch.stack([theirs(to_pil_image(image)) for image in images]))
    assert (arrays.spec.mean, arrays.spec.std) == (spec.mean, spec.std)


def test_another_normalisation_is_declared_and_served(data: Any) -> None:
    """Mean 0 and spread 1 leave the pixels as they are: within [0, 1]."""
    plain = data(augmentation=Augmentation(normalisation=Normalisation((0.0,) * 3, (1.0,) * 3)))
    assert (plain.spec.mean, plain.spec.std) == ((0.0,) * 3, (1.0,) * 3)
    (x, _), *_ = plain.test_dataloader()
    assert 0 <= float(x.min()) < float(x.max()) <= 1
    assert float(next(iter(data().test_dataloader()))[0].min()) < 0


def test_validation_is_there_where_images_are_kept_for_it(data: Any) -> None:
    assert data().val_dataloader() == []
    arrays = data(val_size=3)
    assert torch.equal(torch.cat([y for _, y in arrays.val_dataloader()]), arrays.source.splits["val"][1])


def test_seed_epoch_and_place_fix_an_image_and_nothing_outside_it(data: Any) -> None:
    """A copy lies a multiple of N behind: another augmentation of the same image and label."""
    arrays = data()
    transform = arrays.augmentation.transform(64, arrays.normalisation, train=True)
    photos, others = (ArrayPhotos(IMAGES, LABELS, transform, seed) for seed in (0, 1))
    before = torch.get_rng_state()
    x, y = photos[0, 3]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(photos[0, 3][0], x)
    assert y == photos[0, 23][1] == 3
    assert all(not torch.equal(x, other) for other in (photos[0, 23][0], photos[1, 3][0], others[0, 3][0]))


def test_the_datas_seed_draws_what_is_done_to_an_image(data: Any) -> None:
    """The same two images under two seeds: whatever their order, each is cropped in another way."""

    def served(seed: int) -> dict[int, Tensor]:
        arrays = data(seed)
        arrays.source.splits["train"] = (IMAGES[:2], LABELS[:2])
        ((x, y),) = arrays.train_dataloader()
        return dict(zip(y.tolist(), x, strict=True))

    first, again, other = served(0), served(0), served(1)
    for label in (0, 1):
        assert torch.equal(first[label], again[label])
        assert not torch.equal(first[label], other[label])


def test_stand_ins_have_the_declared_shape_and_are_two_batches_at_most() -> None:
    arrays = AugmentedArrays(CIFAR100(4, root="nowhere", test_size=5), 4, 64, generated=True)
    arrays.setup()
    x, y = (torch.cat(columns) for columns in zip(*arrays.train_dataloader(), strict=True))
    assert x.shape == (8, *arrays.spec.shape) == (8, 3, 64, 64)
    assert int(y.max()) < 100
    assert sum(len(labels) for _, labels in arrays.test_dataloader()) == 5
    assert arrays.spec.source == "generated"
    assert AugmentedArrays(CIFAR100(4, root="nowhere"), 4, generated=True).spec.shape == (3, 224, 224)
