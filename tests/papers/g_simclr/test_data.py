"""Images in [0, 1], augmentation of whole batches, photos in memory."""

from __future__ import annotations

import colorsys
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.common.augment import HorizontalFlip, RandomCrop
from datamodules.common.base import DataError, Draws
from datamodules.common.simclr_augment import ColorJitter, RandomGrey
from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.g_simclr.augment import AdditiveJitter, Batchwise
from datamodules.g_simclr.images import FolderInMemory, UnitImages


def draws(seed: int, total: int, start: int = 0, count: int | None = None) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), total, start, total if count is None else count)


def test_pixels_lie_in_0_to_1_and_splits_are_the_source_s(images: UnitImages) -> None:
    batch = next(iter(images.train_dataloader()))
    stored = images.source.splits["train"][0][batch.row]
    assert torch.equal(batch.x, stored / 255)
    assert images.spec.mean == (0.0,)
    assert images.spec.identity == images.source.spec.identity


def test_stand_ins_have_the_sources_shape() -> None:
    data = UnitImages(FashionMNIST(8, train_size=80, val_size=0), 8, generated=True)
    data.setup()
    assert data.spec.source == "generated"
    batch = next(iter(data.train_dataloader()))
    assert batch.x.shape == (8, 1, 28, 28)
    assert 0 <= float(batch.x.min()) < float(batch.x.max()) <= 1


def test_images_without_a_validation_split_begin_with_the_same_ones() -> None:
    """Pretraining takes all images, probes hold some out: the others keep their place."""
    whole = UnitImages(FashionMNIST(8, train_size=80, val_size=0), 8)
    parts = UnitImages(FashionMNIST(8, train_size=60, val_size=20), 8)
    for data in (whole, parts):
        data.setup()
    held_out = torch.cat([parts.splits[name][0] for name in ("train", "val")])
    assert torch.equal(whole.splits["train"][0], held_out)


def test_images_held_out_of_training_can_be_tested_besides() -> None:
    """The last 15 of 20 validation images stand behind the test images; no image is in two splits or lost."""
    source = FashionMNIST(8, train_size=60, val_size=20, test_size=30)
    more = UnitImages(source, 8, also_tested=0.75)
    more.setup()
    before = source.splits
    assert more.spec.sizes == {"train": 60, "val": 5, "test": 45}
    assert torch.equal(more.splits["train"][0], before["train"][0])
    for column in (0, 1):
        held_out = torch.cat([more.splits["val"][column], more.splits["test"][column][30:]])
        assert torch.equal(held_out, before["val"][column])
        assert torch.equal(more.splits["test"][column][:30], before["test"][column])
    assert sum(len(batch.y) for batch in more.test_dataloader()) == 45
    assert more.spec.identity != source.spec.identity


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_some_of_the_images_held_out_stay_for_validation(share: float) -> None:
    with pytest.raises(DataError, match=f"also_tested={share}: expected a share from 0 to below 1"):
        UnitImages(FashionMNIST(8, train_size=60, val_size=20), 8, also_tested=share)


@pytest.mark.parametrize(
    "operation", [HorizontalFlip(0.5), RandomCrop(2), ColorJitter(1.0, 0.5), AdditiveJitter(0.2, 0.5), RandomGrey(0.5)]
)
def test_coins_are_tossed_once_for_a_batch(operation: Any) -> None:
    x = torch.rand(1, 3, 8, 8).expand(6, -1, -1, -1).contiguous()
    outcomes = set()
    for seed in range(12):
        y = Batchwise(operation)(x.clone(), draws(seed, 6))
        assert torch.allclose(y, y[:1].expand_as(y), atol=1e-6)
        outcomes.add(bool(torch.equal(y, x)))
        share = Batchwise(operation)(x[:2].clone(), draws(seed, 6, 4, 2))  # of another process
        assert torch.allclose(share, y[4:], atol=1e-6)
    assert False in outcomes  # a crop never leaves all as it is; the others do for some batches


class Told(Draws):
    """Numbers that a test writes down instead of drawing them, in [0, 1) before they are stretched."""

    def __init__(self, *numbers: float) -> None:
        super().__init__(torch.Generator(), 1, 0, 1)
        object.__setattr__(self, "left", list(numbers))

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        numbers = [self.left.pop(0) for _ in range(math.prod(shape))]  # type: ignore[attr-defined]
        return (torch.tensor(numbers) * (high - low) + low).view(1, *shape)


def test_released_jitter_by_hand() -> None:
    """Coin, brightness, contrast, saturation, hue, each at a number between its ends; hue by Python's colorsys."""
    x = torch.rand(1, 3, 4, 4) * 0.3 + 0.35
    y = AdditiveJitter(0.2, 0.5)(x, Told(0.49, 0.75, 1.0, 0.0, 0.25))
    brighter = x[0].double() + 0.08  # a quarter of the way from 0 to 0.16 and back
    mean = brighter.mean((1, 2), keepdim=True)
    contrasted = mean + 1.16 * (brighter - mean)
    expected = np.empty((3, 4, 4))
    for i, j in np.ndindex(4, 4):
        hue, saturation, value = colorsys.rgb_to_hsv(*contrasted[:, i, j].tolist())
        expected[:, i, j] = colorsys.hsv_to_rgb((hue - 0.02) % 1, 0.84 * saturation, value)
    assert np.allclose(y[0].numpy(), expected, atol=1e-5)
    assert torch.equal(AdditiveJitter(0.2, 0.5)(x, Told(0.5, 0.75, 1.0, 0.0, 0.25)), x)


def test_released_jitter_clips_once() -> None:
    """0.9 and 0.7, brightened by 0.16 to 1.06 and 0.86, and contrast 0.84 about 0.96: 1.044 and 0.876.

    Clipped after the brightness they were 1 and 0.86, about 0.93: 0.9888 and 0.8712.
    """
    x = torch.tensor([0.9, 0.7]).expand(1, 3, 2, 2)
    y = AdditiveJitter(0.2, 1.0)(x, Told(0.0, 1.0, 0.0, 0.5, 0.5))
    assert y[0, 0, 0].tolist() == pytest.approx([1.0, 0.876], abs=1e-5)


def test_strength_beyond_its_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"strength=1\.3: expected 0 to 1\.25"):
        AdditiveJitter(1.3, 0.5)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for split, count in (("train", 3), ("test", 2)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (20, 10), (40 * number, 100 * label, 0)).save(folder / f"{number}.png")
    return tmp_path


def folder(root: Path, **options: Any) -> FolderInMemory:
    return FolderInMemory(str(root), 2, {"classes": 2, "train": 6, "test": 4}, 8, **options)


def test_photos_are_read_whole(photos: Path) -> None:
    data = folder(photos, val_size=2)
    data.setup()
    assert {name: tuple(images.shape) for name, (images, _) in data.splits.items()} == {
        "train": (4, 3, 8, 8),
        "val": (2, 3, 8, 8),
        "test": (4, 3, 8, 8),
    }
    images, labels = data.splits["test"]
    assert torch.equal(images[:, 1, 0, 0].long(), 100 * labels)
    assert data.normalised(images)[:, 1, 0, 0].tolist() == pytest.approx([0, 0, 100 / 255, 100 / 255])
    assert data.spec.name == data.title


def test_missing_and_damaged_photos_are_named(photos: Path, tmp_path: Path) -> None:
    assert "does not exist" in folder(tmp_path / "none").available()
    assert folder(photos).available() == ""
    (photos / "test").rename(photos / "elsewhere")
    assert "test" in folder(photos).available()
    (photos / "elsewhere").rename(photos / "test")
    with pytest.raises(DataError, match="2 class folders; expected 3"):
        FolderInMemory(str(photos), 2, {"classes": 3, "train": 6, "test": 4}, 8).setup()
    with pytest.raises(DataError, match="6 train photos; expected 9"):
        FolderInMemory(str(photos), 2, {"classes": 2, "train": 9, "test": 4}, 8).setup()
    (photos / "test" / "dog" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0\.png cannot be decoded"):
        folder(photos).setup()
    (photos / "test" / "bird").mkdir()
    (photos / "test" / "dog" / "1.png").rename(photos / "test" / "bird" / "1.png")
    with pytest.raises(DataError, match="'bird'"):
        folder(photos).setup()
