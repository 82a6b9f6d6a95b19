"""Pictures that one stage keeps for others, photos in class folders, whole birds with masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.common.base import DataError, Fed
from datamodules.common.cub import Birds, Variation
from datamodules.common.species import Species
from datamodules.st_protopnet.photos import Affine, Kinds, MaskedBirds
from datamodules.st_protopnet.pictures import Drawn, OtherSpecies, Pictures


@pytest.fixture
def kept() -> Fed:
    """What a stage on a few species keeps."""
    data = Drawn(10, 2, 1, seed=3)
    data.setup()
    return Fed(torch.nn.Identity(), data.arrays())


def test_kept_pictures_are_those_that_would_be_drawn(kept: Fed) -> None:
    source = Species(10, 2, 1, seed=3)
    data = Pictures(source, 10, kept, masks=True, rows=True)
    data.setup()
    assert not source.splits  # nothing was drawn again
    source.setup()
    for split in ("train", "test"):
        assert all(torch.equal(*pair) for pair in zip(data.splits[split], source.splits[split], strict=True))
    assert data.spec.sizes == {"train": 80, "val": 0, "test": 40}
    batches = list(data.test_dataloader())
    assert batches[0]._fields == ("x", "y", "row", "mask")
    assert torch.equal(torch.cat([b.mask for b in batches]), source.known["test"].mask)


def test_training_pictures_can_be_tested_on(kept: Fed) -> None:
    data = Pictures(Species(10, 2, 1, seed=3), 10, kept, tested="train", rows=True, masks=True)
    data.setup()
    assert data.spec.sizes == {"train": 80, "val": 0, "test": 80}
    rows = torch.cat([batch.row for batch in data.test_dataloader()])
    assert torch.equal(rows, torch.arange(80))


def test_validation_pictures_are_kept_beside_the_others() -> None:
    """They are in neither other split, in order, and training and test pictures are what they are without them."""
    drawn = Drawn(10, 2, 1, 1, seed=3)
    drawn.setup()
    data = Pictures(Species(10, 2, 1, 1, seed=3), 10, Fed(torch.nn.Identity(), drawn.arrays()))
    data.setup()
    assert data.spec.sizes == {"train": 80, "val": 40, "test": 40}
    plain = Species(10, 2, 1, seed=3)
    plain.setup()
    for split in ("train", "test"):
        assert torch.equal(data.splits[split][0], plain.splits[split][0])
    loader = data.val_dataloader()
    assert torch.equal(torch.cat([batch.y for batch in loader]), torch.arange(40))
    validation = {image.numpy().tobytes() for image in data.splits["val"][0]}
    assert validation.isdisjoint(image.numpy().tobytes() for image in plain.splits["train"][0])


def test_the_judge_sees_other_pictures() -> None:
    data, others = Species(10, 1, 1, seed=3), OtherSpecies(10, seed=3, train_per_class=1, test_per_class=1)
    data.setup()
    others.setup()
    for ours, split in ((others.splits[n][0].flatten(1), n) for n in ("train", "test")):
        assert not any(torch.equal(a, b) for a in ours for b in data.splits[split][0].flatten(1))
    assert others.spec.identity != data.spec.identity


def test_wrong_pictures(kept: Fed) -> None:
    with pytest.raises(DataError, match="tested='val': expected one of train, test"):
        Pictures(Species(10), 10, kept, tested="val")
    with pytest.raises(DataError, match="kept: expected a stage on"):
        Pictures(Species(10), 10, Fed(torch.nn.Identity(), {})).setup()


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    for split, count in (("train", 3), ("test", 2)):
        for number, name in enumerate(("coupe", "van")):
            (tmp_path / split / name).mkdir(parents=True)
            for photo in range(count):
                pixels = np.full((30, 40, 3), 40 * photo + 100 * number, np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / name / f"{photo}.png")
    return tmp_path


def test_photos_of_class_folders_are_squashed_or_copied(cars: Path) -> None:
    declared = {"classes": 2, "train": 6, "test": 4}
    data = Kinds(str(cars), 4, declared, variation=Variation(8), image_size=16, num_workers=0)
    data.setup()
    assert data.spec.classes == ("coupe", "van")
    assert data.spec.sizes == {"train": 48, "test": 4}
    rows = torch.cat([batch.row for batch in data.train_dataloader()])
    assert rows.bincount().tolist() == [8] * 6
    batch = next(iter(data.test_dataloader()))
    assert batch.x.shape == (4, 3, 16, 16)
    assert batch.y.tolist() == [0, 0, 1, 1]
    assert (255 * data.shown(data.training_images([4]))[0, 0, 0, 0]).round() == 140
    with pytest.raises(DataError, match="has 2 class folders, expected 196"):
        Kinds(str(cars), 4, {**declared, "classes": 196}, num_workers=0).setup()
    (cars / "test" / "van" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png cannot be decoded"):
        list(data.test_dataloader())


def test_generated_photos_have_the_declared_shapes() -> None:
    data = Kinds(
        "nowhere",
        2,
        {"classes": 196, "train": 8144, "test": 8041},
        variation=Variation(40),
        image_size=32,
        generated=True,
    )
    data.setup()
    assert data.spec.sizes == {"train": 325_760, "test": 8041}
    assert next(iter(data.train_dataloader())).x.shape == (2, 3, 32, 32)


def test_whole_photos_are_turned_and_mirrored() -> None:
    photo = Image.fromarray(np.tile(np.arange(100, 164, dtype=np.uint8)[None, :, None], (64, 1, 3)))
    torch.manual_seed(0)
    made = [np.asarray(Affine()(photo)) for _ in range(20)]
    assert all(array.shape == (64, 64, 3) for array in made)
    rising = [array[32, 40, 0] > array[32, 24, 0] for array in made]
    assert 3 <= sum(rising) <= 17
    assert any(array[0, 0, 0] == 0 for array in made)  # corners are black


def test_masks_of_birds(birds: Path) -> None:
    missing = MaskedBirds(str(birds), 2, image_size=16, num_workers=0)
    assert "has no segmentations" in missing.available()
    for photo in (birds / "images").rglob("*.png"):
        pixels = np.zeros((60, 80), np.uint8)
        pixels[10:40, 20:65] = 200
        path = birds / "segmentations" / photo.relative_to(birds / "images")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    data = MaskedBirds(str(birds), 2, image_size=16, num_workers=0)
    data.setup()
    assert data.train_dataloader() == data.val_dataloader() == []
    batch = next(iter(data.test_dataloader()))
    assert batch._fields == ("x", "y", "mask")
    assert batch.mask.unique().tolist() == [0, 1]
    bright = data.shown(batch.x)[:, 0] > 0.4
    assert float((bright == batch.mask.bool()).float().mean()) > 0.9
    plain = Birds(str(birds), 2, 16, whole=True, num_workers=0)
    plain.setup()
    assert torch.equal(next(iter(plain.test_dataloader())).x, batch.x)
    next((birds / "segmentations").rglob("5.png")).unlink()
    with pytest.raises(DataError, match=r"segmentations\.tgz"):
        list(data.test_dataloader())


def test_generated_masks_are_neither_empty_nor_full() -> None:
    data = MaskedBirds("nowhere", 2, image_size=16, generated=True)
    data.setup()
    assert next(iter(data.test_dataloader())).mask.float().mean() == 0.5
