"""DeiT-style ImageNet: augmentation fixed by the seed alone, repeated copies, the evaluation crop."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torchvision.transforms import v2

from datamodules.base import DataError
from datamodules.randaugment import AugmentedImageNet, RepeatedAugmentation


@pytest.fixture
def root(tmp_path: Path) -> str:
    """Four training and two test photos of noise, in class folders."""
    source = np.random.default_rng(0)
    for number, wnid in enumerate(ImageNetInfo().label_names()[:2]):
        for split, count in (("train", 2), ("val", 1)):
            folder = tmp_path / split / wnid
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = source.integers(0, 256, (60 + 10 * number, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((100, 120)).save(folder / f"{index}.png")
    return str(tmp_path)


def data(root: str, **options: object) -> AugmentedImageNet:
    module = AugmentedImageNet(root, 4, image_size=32, num_workers=0, **options)  # type: ignore[arg-type]
    module.setup()
    return module


def batch(module: AugmentedImageNet, epoch: int = 0) -> torch.Tensor:
    loader = module.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return next(iter(loader))[0]


def test_the_seed_and_the_epoch_fix_every_image_whatever_was_drawn_before(root: str) -> None:
    first = batch(data(root))
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    state = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]
    assert torch.equal(batch(data(root)), first)
    assert random.getstate() == state[0]
    assert np.random.get_state()[1].tolist() == state[1]  # type: ignore[index, union-attr]
    assert not torch.equal(batch(data(root), 1), first)
    assert not torch.equal(batch(data(root, seed=1)), first)


def test_every_part_of_the_augmentation_is_there(root: str) -> None:
    plain = batch(data(root, auto_augment=None, erasing=0.0))
    assert not torch.equal(batch(data(root, erasing=0.0)), plain)
    assert not torch.equal(batch(data(root, auto_augment=None, erasing=1.0)), plain)
    assert not torch.equal(batch(data(root, auto_augment=None, erasing=0.0, interpolation="bicubic")), plain)
    stages = [type(stage).__name__ for stage in data(root).transform(train=True).transforms]
    assert stages[0] == "RandomResizedCropAndInterpolation"
    assert stages[1:3] == ["RandomHorizontalFlip", "RandAugment"]
    assert stages[-2:] == ["Normalize", "RandomErasing"]


def test_copies_of_an_image_are_neighbours_and_differ(root: str) -> None:
    images = batch(data(root, repeats=2, auto_augment=None, erasing=0.0))
    assert not torch.equal(images[0], images[1])
    shares = RepeatedAugmentation(100, 20, shuffle=True, seed=3)
    shares.repeats = 3
    indices = torch.cat([share.indices for share in shares])
    assert len(indices) == 100
    counts = Counter((indices % 100).tolist())
    assert sorted(counts.values()) == [1] + [3] * 33  # an epoch is a third of the images, the last one cut
    assert [(indices // 100)[i].item() for i in range(6)] == [0, 1, 2, 0, 1, 2]
    assert all(len(set((indices % 100)[i : i + 3].tolist())) == 1 for i in range(0, 99, 3))


def test_copies_are_shared_out_and_resumed_like_other_batches() -> None:
    def shares(rank: int = 0, world: int = 1, skip: int = 0) -> list[torch.Tensor]:
        made = RepeatedAugmentation(50, 10, shuffle=True, seed=3, rank=rank, world=world)
        made.repeats = 3
        made.load_state_dict({"position": skip})
        return [share.indices for share in made]

    whole = shares()
    assert torch.equal(torch.cat(shares(skip=2)), torch.cat(whole[2:]))
    for one, left, right in zip(whole, shares(0, 2), shares(1, 2), strict=True):
        assert torch.equal(torch.cat([left, right]), one)


def test_evaluation_resizes_by_the_crop_fraction_and_is_bicubic(root: str) -> None:
    module = data(root, crop_pct=0.8)
    x, labels = next(iter(module.test_dataloader()))
    assert labels.tolist() == [0, 1]
    name = module.items["test"][0][0]
    with Image.open(Path(root) / name) as picture:
        expected = v2.functional.center_crop(
            v2.functional.resize(picture, [40], v2.InterpolationMode.BICUBIC), [32, 32]
        )
    pixels = v2.functional.to_dtype(v2.functional.pil_to_tensor(expected), torch.float32, scale=True)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (module.mean, module.std))
    assert torch.allclose(x[0], (pixels - mean) / std, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"interpolation": "nearest"}, {"erasing": 2.0}, {"crop_pct": 0.0}, {"repeats": 0}], ids=str
)
def test_wrong_arguments_are_named(options: dict[str, object]) -> None:
    with pytest.raises(DataError, match=f"{next(iter(options))}="):
        AugmentedImageNet("nowhere", 4, **options)  # type: ignore[arg-type]
