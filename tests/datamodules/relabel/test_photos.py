"""ImageNet's folders: crops with boxes, label maps on disk, ReaL's labels."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import ImageNetInfo
from torch import nn

from datamodules.common.base import DataError, Fed
from datamodules.relabel.maps import MapFile, random_maps
from datamodules.relabel.photos import EIGENVALUES, EIGENVECTORS, BoxedCrop, CroppedImageNet, Lighting, WholeImageNet

OPTIONS: dict[str, Any] = {"batch_size": 2, "image_size": 32, "num_workers": 0}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes; a photo's red and green are the place of a pixel."""
    for split in ("train", "val"):
        for number, wnid in enumerate(ImageNetInfo().label_names()[:2]):
            for photo in range(3):
                folder = tmp_path / "imagenet" / split / wnid
                folder.mkdir(parents=True, exist_ok=True)
                image = np.zeros((40, 60, 3), np.uint8)
                image[..., 0] = np.linspace(0, 255, 60)[None]
                image[..., 1] = np.linspace(0, 255, 40)[:, None]
                image[..., 2] = 80 * photo
                Image.fromarray(image).save(folder / f"ILSVRC2012_val_{1 + 3 * number + photo:08d}.JPEG", "png")
    return tmp_path / "imagenet"


def maps_file(folder: Path, labels: list[int]) -> Fed:
    np.save(folder / "maps.npy", np.arange(len(labels) * 2 * 2 * 3 * 3, dtype=np.float32).reshape(-1, 2, 2, 3, 3))
    stored = np.load(folder / "maps.npy", mmap_mode="r")
    return Fed(nn.Identity(), {"maps": stored, "labels": np.array(labels)})


def test_boxes_are_fractions_of_the_photo(photos: Path) -> None:
    """The middle of a crop shows the middle of its box."""
    path = next(iter(sorted(photos.rglob("*.JPEG"))))
    crop = BoxedCrop(33, (0.08, 1.0), lambda image: torch.from_numpy(np.array(image)).float() / 255)
    with Image.open(path) as image:
        for _ in range(10):
            pixels, box = crop(image)
            assert pixels[16, 16, :2].tolist() == pytest.approx(((box[:2] + box[2:]) / 2).tolist(), abs=0.03)
            assert 0 <= float(box.min()) <= float(box.max()) <= 1


def test_batches_bring_their_rows_of_the_maps(photos: Path, tmp_path: Path) -> None:
    data = CroppedImageNet(str(photos), maps=maps_file(tmp_path, [0, 0, 0, 1, 1, 1]), **OPTIONS)
    data.setup()
    assert data.fed is None  # it held the annotator
    seen = []
    for batch in data.train_dataloader():
        assert batch._fields == ("x", "y", "box", "map")
        assert batch.x.shape == (2, 3, 32, 32)
        rows = (batch.map[:, 0, 0, 0, 0] / 36).long()
        assert torch.equal(batch.y, rows // 3)
        seen += rows.tolist()
    assert sorted(seen) == list(range(6))
    plain = CroppedImageNet(str(photos), **OPTIONS)
    plain.setup()
    assert torch.equal(next(iter(plain.train_dataloader())).x, next(iter(data.train_dataloader())).x)


def test_maps_of_other_photos_are_refused(photos: Path, tmp_path: Path) -> None:
    data = CroppedImageNet(str(photos), maps=maps_file(tmp_path, [0, 0, 1, 1, 1]), **OPTIONS)
    with pytest.raises(DataError, match="made of 5 other images than these 6"):
        data.setup()


def test_maps_are_neither_copied_nor_sent_to_workers(tmp_path: Path) -> None:
    fed = maps_file(tmp_path, [0] * 500)
    rows = MapFile(fed.arrays["maps"])
    sent = pickle.dumps(rows)
    assert isinstance(rows.maps, np.memmap)
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent)[3], rows[3])
    in_memory = MapFile(np.ones((2, 2, 1, 1, 1), np.float32))
    assert torch.equal(pickle.loads(pickle.dumps(in_memory))[1], in_memory[1])


def test_reassessed_labels_come_by_file_name(photos: Path) -> None:
    """timm's list: 50,000 photos, of which 3,163 have no label left."""
    data = CroppedImageNet(str(photos), **OPTIONS)
    data.setup()
    batches = list(data.test_dataloader())
    assert batches[0]._fields == ("x", "y", "valid")
    from timm.data import RealLabelsImagenet

    labels = RealLabelsImagenet([""] * 50_000).real_labels
    assert sum(not valid for valid in labels.values()) == 3_163
    valid = torch.cat([batch.valid for batch in batches])
    for (name, _), row in zip(data.items["test"], valid.tolist(), strict=True):
        assert [label for label in row if label >= 0] == labels[Path(name).name]


def test_whole_photos_are_squashed_and_numbered(photos: Path) -> None:
    data = WholeImageNet(str(photos), **OPTIONS)
    data.setup()
    assert data.spec.sizes["test"] == 6
    batches = list(data.test_dataloader())
    assert torch.cat([batch.row for batch in batches]).tolist() == list(range(6))
    assert torch.cat([batch.y for batch in batches]).tolist() == [0, 0, 0, 1, 1, 1]
    x = data.shown(batches[0].x)[0]
    assert x.shape == (3, 32, 32)
    assert x[0, :, 0].max() < 0.05  # left and right edges of the photo are still there
    assert x[0, :, -1].min() > 0.95
    assert WholeImageNet(str(photos), generated=True, **OPTIONS).spec.sizes == {"train": 0, "test": 1_281_167}


def test_lighting_moves_all_pixels_alike_along_imagenets_colours() -> None:
    image = torch.rand(3, 5, 5)
    assert torch.equal(Lighting(0.0)(image), image)
    moves = torch.stack([(Lighting(0.1)(image) - image) for _ in range(2000)])  # (2000, 3, 5, 5)
    assert torch.allclose(moves, moves[:, :, :1, :1].expand_as(moves), atol=1e-6)
    basis = torch.tensor(EIGENVECTORS)
    assert torch.allclose(basis.T @ basis, torch.eye(3), atol=1e-3)
    along = moves[:, :, 0, 0] @ basis  # (2000, 3)
    assert torch.allclose(along.std(0), 0.1 * torch.tensor(EIGENVALUES), rtol=0.1)


def test_random_maps_look_like_maps() -> None:
    scores, numbers = random_maps(2, (5, 3, 3), 20, torch.Generator().manual_seed(0)).unbind(1)
    assert bool((scores.diff(dim=1) <= 0).all())
    assert all(len(set(cell)) == 5 for cell in numbers.permute(0, 2, 3, 1).flatten(0, 2).tolist())
