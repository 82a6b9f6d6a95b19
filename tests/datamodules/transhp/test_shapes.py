"""Generated shapes: what they show is what their label says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from datamodules.common.base import DataError
from datamodules.transhp.shapes import CLASSES, HIGH, LOW, RADII, SHAPES, Scene, Shapes, shapes


def clean(label: int, seed: int = 0) -> Tensor:
    """The picture of a class without noise and jitter: 1 inside, 0 outside, (20, 20)."""
    picture = shapes(torch.tensor([label]), Scene(0.0, 0.0), torch.Generator().manual_seed(seed))[0, 0]
    return picture.float() / 255 * (HIGH - LOW) + LOW


def label(name: str) -> int:
    return CLASSES.index(name)


def test_areas() -> None:
    for radius in RADII:
        assert float(clean(label(f"disc, radius {radius:g}")).sum()) == pytest.approx(math.pi * radius**2, rel=0.05)
    sides = [float(clean(4 + k).sum()) for k in range(4)]
    assert sides == pytest.approx([81] * 4, rel=0.03)
    rings = [float(clean(12 + k).sum()) for k in range(4)]
    assert rings == pytest.approx([math.pi * (6.5**2 - (6.5 - t) ** 2) for t in (1.2, 2.0, 2.8, 3.6)], rel=0.06)


def test_the_long_arm_points_where_the_label_says() -> None:
    line = torch.arange(20.0) - 9.5
    for name, (dy, dx) in {"up": (-1, 0), "right": (0, 1), "down": (1, 0), "left": (0, -1)}.items():
        picture = clean(label(f"cross, long {name}"))
        centre = torch.stack([(picture.sum(1) * line).sum(), (picture.sum(0) * line).sum()]) / picture.sum()
        assert torch.allclose(centre.sign() * (centre.abs() > 0.2), torch.tensor([float(dy), float(dx)]))


def test_stripes_have_their_period() -> None:
    for k, period in enumerate((2.5, 3.3, 4.4, 5.8)):
        middle = clean(8 + k)[8:12].mean(0)[4:16]
        x = torch.arange(12.0)
        power = [
            float(((middle - middle.mean()) * torch.exp(2j * math.pi * x / p)).sum().abs())
            for p in (2.5, 3.3, 4.4, 5.8)
        ]
        assert max(range(4), key=power.__getitem__) == k, period


def test_splits_are_balanced_apart_and_fixed_by_the_seed() -> None:
    data = Shapes(50, 200, 0, 100)
    data.setup()
    assert data.splits["train"][1].bincount().tolist() == [10] * 20
    assert data.splits["test"][1].bincount().tolist() == [5] * 20
    train, test = ({image.numpy().tobytes() for image in data.splits[name][0]} for name in ("train", "test"))
    assert len(train) == 200
    assert not train & test
    assert data.spec.source == "generated"
    assert data.splits["train"][0].shape[1:] == data.spec.shape == (1, 20, 20)
    again, other = Shapes(50, 200, 0, 100), Shapes(50, 200, 0, 100, seed=1)
    again.setup()
    other.setup()
    assert again.spec.identity == data.spec.identity != other.spec.identity


def test_validation_images_lie_beside_the_training_images() -> None:
    """120 pictures, six of each class: 80 to train on, and the other 40."""
    data = Shapes(50, 80, 40, 20)
    data.setup()
    assert data.spec.sizes == {"train": 80, "val": 40, "test": 20}
    assert data.spec.where == "made by the suite"
    labels = torch.cat([data.splits[name][1] for name in ("train", "val")])
    assert labels.bincount().tolist() == [6] * 20


def test_training_pictures_alone_are_augmented() -> None:
    """An operation that makes everything white."""

    def whiten(x: Tensor, source: torch.Generator) -> Tensor:
        return torch.ones_like(x)

    data = Shapes(20, 20, 0, 20, augment=(whiten,))
    data.setup()
    (train,), (test,) = data.train_dataloader(), data.test_dataloader()
    white = (1 - data.spec.mean[0]) / data.spec.std[0]
    assert torch.allclose(train.x, torch.full_like(train.x, white), atol=1e-4)
    assert float((test.x - white).abs().amax((1, 2, 3)).min()) > 1


def test_mean_and_deviation() -> None:
    data = Shapes(50, 4000, 0, 20)
    data.setup()
    x = data.splits["train"][0].float() / 255
    assert float(x.mean()) == pytest.approx(data.spec.mean[0], abs=0.002)
    assert float(x.std()) == pytest.approx(data.spec.std[0], abs=0.002)
    assert len(CLASSES) == len(set(CLASSES)) == 4 * len(SHAPES)


def test_noise_is_as_strong_as_it_says() -> None:
    labels = torch.zeros(200, dtype=torch.long)
    pictures = shapes(labels, Scene(0.35, 0.0), torch.Generator().manual_seed(0)).float() / 255 * (HIGH - LOW) + LOW
    assert float((pictures[:, 0] - clean(0)).std()) == pytest.approx(0.35, rel=0.02)


def test_wrong_sizes() -> None:
    with pytest.raises(DataError, match="expected numbers of images and no negative one"):
        Shapes(50, train_size=0)
    with pytest.raises(DataError, match="noise=-1, jitter=2: expected no negative number"):
        Scene(noise=-1, jitter=2)
