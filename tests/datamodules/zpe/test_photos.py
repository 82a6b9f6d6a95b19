"""Photos for zero-shot classification: which folder is which class, and what is served."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules.common.base import DataError
from datamodules.zpe.photos import CLIP_MEAN, CLIP_STD, Collection, PretrainingPhotos, ZeroShotPhotos, label_folders
from datamodules.zpe.prompts import Listed, Released

PROMPTS = Listed(["red fox", "Hen"], ["{}", "a {}."], ["a {}."])


def photo(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (20, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def test_folders_of_classes() -> None:
    names = [str(number) for number in range(12)]
    assert label_folders(sorted(names), names)["10"] == 10  # numbers, not words
    assert label_folders(["n02000000", "n01000000"], ["first", "second"]) == {"n01000000": 0, "n02000000": 1}
    assert label_folders(["hen", "Red_Fox"], PROMPTS.read().classes) == {"hen": 1, "Red_Fox": 0}
    with pytest.raises(DataError, match="1 class folders for 2"):
        label_folders(["hen"], PROMPTS.read().classes)
    with pytest.raises(DataError, match="'cock' is none of the class names"):
        label_folders(["hen", "cock"], PROMPTS.read().classes)


def test_a_set_of_photos(tmp_path: Path) -> None:
    photo(tmp_path / "set" / "hen" / "a.png", (255, 0, 0))
    photo(tmp_path / "set" / "red_fox" / "b.png", (0, 0, 255), (40, 25))
    data = ZeroShotPhotos(str(tmp_path / "set"), 2, Collection(2), PROMPTS, image_size=16, num_workers=0)
    assert not data.available()
    data.setup()
    (batch,) = list(data.test_dataloader())
    assert batch.x.shape == (2, 3, 16, 16)
    assert batch.y.tolist() == [1, 0]
    red = (torch.tensor([1.0, 0.0, 0.0]) - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    assert torch.allclose(batch.x[0, :, 8, 8], red, atol=1e-5)
    assert data.spec.sizes["test"] == 2
    assert data.spec.classes == ("red fox", "Hen")


def test_photos_are_identified_by_their_names_and_labels(tmp_path: Path) -> None:
    """The same files under the same classes are the same set; a photo in the other class's folder is another."""
    for root, folder in (("one", "hen"), ("two", "hen"), ("three", "red_fox")):
        photo(tmp_path / root / "hen" / "a.png", (255, 0, 0))
        photo(tmp_path / root / "red_fox" / "b.png", (0, 0, 255))
        photo(tmp_path / root / folder / "c.png", (0, 255, 0))
    identities = []
    for root in ("one", "two", "three"):
        data = ZeroShotPhotos(str(tmp_path / root), 2, Collection(3), PROMPTS, image_size=16, num_workers=0)
        assert data.spec.identity == ""  # not looked at yet
        data.setup()
        identities.append(data.spec.identity)
    assert identities[0] == identities[1] != identities[2]
    assert len(identities[0]) == 12


def test_a_folder_with_another_number_of_photos_is_refused(tmp_path: Path) -> None:
    """Two photos do not pass for 30,000."""
    photo(tmp_path / "imagenet_r" / "hen" / "a.png", (255, 0, 0))
    photo(tmp_path / "imagenet_r" / "red_fox" / "b.png", (0, 0, 255))
    for size in (1, 3, 30000):
        expected = Collection(size, where="https://hendrycks.example", split="the test set")
        data = ZeroShotPhotos(str(tmp_path / "imagenet_r"), 2, expected, PROMPTS)
        with pytest.raises(DataError, match=rf"holds 2 photos; expected {size}, the test set. imagenet_r: https://hen"):
            data.setup()
    with pytest.raises(DataError, match="holds 2 photos; expected 3"):
        PretrainingPhotos(str(tmp_path / "imagenet_r"), 2, Collection(3)).setup()


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    data = ZeroShotPhotos(str(tmp_path / "none"), 2, Collection(2), Released(str(tmp_path / "no.py"), "pets"))
    assert "does not exist" in data.available()
    assert "none: your own photos" in data.available()
    assert "copy it from" in data.available()
    with pytest.raises(DataError, match="does not exist"):
        data.setup()
    photo(tmp_path / "other" / "cock" / "a.png", (0, 0, 0))
    with pytest.raises(DataError, match="other: 1 class folders for 2"):
        ZeroShotPhotos(str(tmp_path / "other"), 2, Collection(2), PROMPTS).setup()


def test_pretraining_photos_are_the_first_and_random_crops(tmp_path: Path) -> None:
    for number in range(4):
        folder = tmp_path / "laion" / f"0000{number // 2}"
        photo(folder / f"{number}.png", (60 * number, 0, 0), (64, 64))
    data = PretrainingPhotos(str(tmp_path / "laion"), 2, Collection(3), image_size=16, num_workers=0)
    data.setup()
    assert [Path(name).name for name, _ in data.items] == ["0.png", "1.png", "2.png"]
    assert data.spec.sizes["test"] == 3
    assert data.prompts() is None
    once, again = ([batch.x for batch in data.test_dataloader()] for _ in range(2))
    assert torch.equal(torch.cat(once), torch.cat(again))


def test_stand_ins(tmp_path: Path) -> None:
    data = ZeroShotPhotos(str(tmp_path), 3, Collection(50000), PROMPTS, generated=True)
    data.setup()
    batches = list(data.test_dataloader())
    assert batches[0].x.shape == (3, 3, 224, 224)
    assert int(torch.cat([batch.y for batch in batches]).max()) < 2
    assert data.spec.sizes["test"] == 50000
