"""The Inception papers' ImageNet: distorted colours against torchvision and by hand, whole photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torchvision.transforms.v2 import functional

from datamodules.common.base import DataError
from datamodules.inception_v4 import ORDERS, DistortColour, InceptionImageNet, WholeImageNet, distorted

HALF = (0.5, 0.5, 0.5)
NOTHING = {"b": 0.0, "s": 1.0, "h": 0.0, "c": 1.0}


def image(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    names = ImageNetInfo().label_names()[:2]
    source = np.random.default_rng(0)
    for split in ("train", "val"):
        for number, name in enumerate(names):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index in range(2):
                pixels = source.integers(0, 256, (50 + 10 * index, 70 - 5 * number, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path


def test_amounts_that_do_nothing() -> None:
    assert ORDERS["fast"] == ("bs",)
    for order in ORDERS["full"]:
        assert sorted(order) == sorted("bshc")
        assert torch.allclose(distorted(image(), order, NOTHING), image(), atol=1e-5)


def test_brightness_is_added_and_the_rest_is_torchvisions() -> None:
    x = image()
    assert torch.allclose(distorted(x, "b", {"b": 0.1}), (x + 0.1).clamp(max=1))
    amounts = {"b": -0.05, "s": 1.4, "h": 0.15, "c": 0.6}
    expected = functional.adjust_saturation((x - 0.05).clamp(0, 1), 1.4)
    expected = functional.adjust_contrast(functional.adjust_hue(expected, 0.15), 0.6)
    assert torch.allclose(distorted(x, "bshc", amounts), expected, atol=1e-6)
    assert not torch.allclose(distorted(x, "hscb", amounts), expected, atol=1e-3)


def test_random_distortion_stays_in_range_and_varies() -> None:
    torch.manual_seed(0)
    actual = [DistortColour("full")(image()) for _ in range(30)]
    assert all(float(x.min()) >= 0 and float(x.max()) <= 1 for x in actual)
    assert len({float(x.mean()) for x in actual}) == 30
    means = torch.stack([x.mean() for x in actual])
    assert float((means - image().mean()).abs().max()) < 0.35
    torch.manual_seed(0)
    assert torch.equal(DistortColour("full")(image()), actual[0])


def test_fast_distortion_is_brightness_then_saturation() -> None:
    torch.manual_seed(0)
    actual = DistortColour()(image())
    torch.manual_seed(0)
    torch.randint(1, ())
    amounts = {
        "b": float(torch.empty(()).uniform_(-32 / 255, 32 / 255)),
        "s": float(torch.empty(()).uniform_(0.5, 1.5)),
    }
    assert torch.equal(actual, distorted(image(), "bs", amounts))


def test_training_photos_are_distorted_and_test_photos_are_not(photos: Path) -> None:
    options = {"image_size": 32, "resize": 36, "mean": HALF, "std": HALF, "num_workers": 0}
    served = {}
    for distort in ("full", "fast", "none"):
        data = InceptionImageNet(str(photos), 4, distort, **options)  # type: ignore[arg-type]
        data.setup()
        served[distort] = (next(iter(data.train_dataloader()))[0], next(iter(data.test_dataloader()))[0])
    (train, test), (fast, _), (plain, same) = served.values()
    assert train.shape == test.shape == (4, 3, 32, 32)
    assert not torch.allclose(train, plain)
    assert not torch.allclose(fast, plain)
    assert torch.equal(test, same)
    assert all(-1 <= float(x.min()) <= float(x.max()) <= 1 for x in (train, test))  # inputs in [-1, 1]


def test_training_crops_have_the_area_that_is_asked_for(photos: Path) -> None:
    data = InceptionImageNet(str(photos), 4, image_size=32, crop_scale=(0.9, 1.0), num_workers=0)
    crop = data.transform(train=True).transforms[0]
    assert (tuple(crop.scale), tuple(crop.size)) == ((0.9, 1.0), (32, 32))


def test_interpolation_of_the_test_photos(photos: Path) -> None:
    options = {"image_size": 32, "resize": 36, "mean": HALF, "std": HALF, "num_workers": 0}
    source = Image.open(min((photos / "val").glob("*/*.png"))).convert("RGB")
    for name, mode in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        data = InceptionImageNet(str(photos), 1, interpolation=name, **options)  # type: ignore[arg-type]
        data.setup()
        x = next(iter(data.test_dataloader()))[0][0]
        width, height = source.size
        size = (36, int(36 * height / width)) if width < height else (int(36 * width / height), 36)
        expected = functional.center_crop(functional.pil_to_tensor(source.resize(size, mode)), [32, 32]) / 127.5 - 1
        assert torch.allclose(x, expected, atol=1e-6)
    with pytest.raises(DataError, match="interpolation='nearest': expected bilinear or bicubic"):
        InceptionImageNet(str(photos), 1, interpolation="nearest")
    with pytest.raises(DataError, match="distort='slow': expected fast, full or none"):
        InceptionImageNet(str(photos), 1, distort="slow")


def test_whole_photos_keep_their_size(photos: Path) -> None:
    data = WholeImageNet(str(photos), 1, mean=HALF, std=HALF, num_workers=0)
    data.setup()
    batches = list(data.test_dataloader())
    assert [tuple(x.shape[1:]) for x, _ in batches] == [(3, 50, 70), (3, 60, 70), (3, 50, 65), (3, 60, 65)]
    assert torch.cat([y for _, y in batches]).tolist() == [0, 0, 1, 1]
    wide = WholeImageNet(str(photos), 2, num_workers=0)
    wide.setup()
    with pytest.raises(DataError, match="batch_size=2"):
        wide.test_dataloader()
    dry = WholeImageNet(str(photos), 2, generated=True)
    dry.setup()
    assert next(iter(dry.test_dataloader()))[0].shape == (2, 3, 375, 500)
