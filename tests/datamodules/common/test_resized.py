"""A dataset at another size: the same images and labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.common.augment import HorizontalFlip
from datamodules.common.base import DataError
from datamodules.common.digits import Digits
from datamodules.common.resized import Resized
from datamodules.common.torchvision_sets import FashionMNIST


def digits(**options: object) -> Digits:
    return Digits(32, 100, 50, 60, seed=3, **options)  # type: ignore[arg-type]


def test_splits_and_labels_are_those_of_the_source() -> None:
    source, data = digits(label_noise=0.3), Resized(digits(label_noise=0.3), 10, 16)
    source.setup()
    data.setup()
    for name, (images, labels) in data.splits.items():
        assert images.shape[1:] == data.spec.shape == (1, 16, 16)
        assert torch.equal(labels, source.splits[name][1])
        assert int(images.max()) <= 16  # digits have 17 grey levels
        before = source.splits[name][0]
        for image, small in zip(images[:20], before, strict=False):
            theirs = Image.fromarray(small[0].float().numpy()).resize((16, 16), Image.Resampling.BICUBIC)
            assert np.array_equal(np.asarray(theirs).clip(0, 16).round(), image[0].numpy())
    assert torch.equal(data.clean_labels, source.clean_labels)
    assert data.spec.sizes == source.spec.sizes == {"train": 100, "val": 50, "test": 60}
    assert data.spec.identity != source.spec.identity
    assert "resized from 8 to 16" in data.spec.split


def test_the_source_size_changes_nothing() -> None:
    source, data = digits(), Resized(digits(), 10, 8)
    source.setup()
    data.setup()
    assert all(torch.equal(data.splits[n][0], source.splits[n][0]) for n in source.splits)


def test_nothing_is_in_two_splits_and_augmentation_is_the_sources() -> None:
    data = Resized(digits(augment=[HorizontalFlip(1.0)]), 100, 12)
    data.setup()
    seen = [{bytes(image.numpy()) for image in data.splits[name][0]} for name in ("train", "val", "test")]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    x, _ = next(iter(data.train_dataloader()))
    flipped = {bytes(image.numpy()) for image in data.normalised(data.splits["train"][0]).flip(-1)}
    assert {bytes(image.numpy()) for image in x} == flipped


def test_generated_data_and_an_empty_split_have_the_size() -> None:
    data = Resized(Digits(32, 100, 0, 60), 4, 20, generated=True)
    data.setup()
    assert data.spec.source == "generated"
    assert data.splits["train"][0].shape[1:] == (1, 20, 20)
    plain = Resized(Digits(32, 100, 0, 60), 4, 20)
    assert plain.spec.shape == (1, 20, 20)  # before anything is read
    plain.setup()
    assert plain.splits["val"][0].shape == (0, 1, 20, 20)


def test_centred_images() -> None:
    data = Resized(FashionMNIST(8, train_size=40, test_size=10), 8, 16, interpolation="bilinear", centred=True)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch.x.shape == (8, 1, 16, 16)
    assert -1 <= float(batch.x.min()) < -0.9
    assert 0.2 < float(batch.x.max()) <= 1
    assert data.spec.sizes == {"train": 40, "val": 0, "test": 10}
    images, labels = data.source.splits["test"]
    assert torch.equal(data.splits["test"][1], labels)
    whole = images.float().mean((1, 2, 3))
    assert torch.allclose(data.splits["test"][0].float().mean((1, 2, 3)), whole, atol=3)


def test_another_interpolation_is_refused() -> None:
    with pytest.raises(DataError, match="interpolation='nearest': expected bicubic or bilinear"):
        Resized(digits(), 10, 16, interpolation="nearest")
