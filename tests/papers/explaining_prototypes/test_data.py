"""Modified pictures of small sets, and birds: lists, crops, copies, modified versions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.common.base import DataError
from datamodules.common.species import ATTRIBUTES, Species, values_of
from datamodules.explaining_prototypes.birds import KINDS, Birds, ModifiedBirds, distort, inscribed
from datamodules.explaining_prototypes.modifications import Strengths, modify
from datamodules.explaining_prototypes.modified import Modified
from datamodules.explaining_prototypes.parts import Parts, cut

STRENGTHS = Strengths(texture="blur")


def test_all_training_and_test_pictures_are_served_with_their_versions() -> None:
    source = Species(20, 2, 1)
    data = Modified(source, 32, STRENGTHS)
    data.setup()
    assert data.train_dataloader() == data.val_dataloader() == []
    batches = list(data.test_dataloader())
    x, y, in_test = (torch.cat([batch[c] for batch in batches]) for c in range(3))
    assert x.shape == (120, 6, 3, 64, 64)
    assert in_test.bincount().tolist() == [80, 40]
    assert data.spec.sizes == {"train": 80, "val": 0, "test": 120}
    for number, split in ((0, "train"), (1, "test")):
        images, labels = source.splits[split]
        own = in_test == number
        assert torch.equal(y[own], labels)
        assert torch.equal(x[own][:, 0], source.normalised(images))
        for m, version in enumerate(modify(images, STRENGTHS).values()):
            assert torch.equal(x[own][:, 1 + m], source.normalised(version))


def test_squares_around_boxes() -> None:
    images = torch.arange(100, dtype=torch.uint8).view(1, 1, 10, 10).expand(2, 1, 10, 10)
    squares = cut(images, torch.tensor([[3.0, 4.0, 7.0, 8.0], [0.0, 0.0, 2.0, 2.0]]), 4)
    assert torch.equal(squares[0], images[0, :, 4:8, 3:7])
    assert squares[1, 0].tolist() == [[0, 0, 1, 2], [0, 0, 1, 2], [10, 10, 11, 12], [20, 20, 21, 22]]


def test_parts_are_cut_out_of_the_species() -> None:
    source = Species(20, 3, 2, noise=0.0)
    data = Parts(source, 16, train_per_class=20, test_per_class=10, rows=True)
    data.setup()
    assert data.spec.sizes == {"train": 180, "val": 0, "test": 90}
    assert data.spec.classes == tuple(f"{p} {v}" for p in ("hue", "texture", "outline") for v in ATTRIBUTES[p])
    assert data.spec.shape == (3, 32, 32)
    images, labels = data.splits["train"]
    assert labels.bincount().tolist() == [20] * 9
    values = values_of(source.splits["train"][1])
    first = (values[:, 2] == 1).nonzero().flatten()[0]  # outline pointed, the last class
    x1, y1, x2, y2 = source.known["train"].boxes[first, 2].tolist()
    square = images[labels == 8][0]
    middle = source.splits["train"][0][first][:, int((y1 + y2) / 2), int((x1 + x2) / 2)]
    near = square[:, 14:19, 14:19].flatten(1)
    assert bool((near == middle[:, None]).all(0).any())
    again = Parts(Species(20, 3, 2, noise=0.0), 16, train_per_class=20, test_per_class=10)
    again.setup()
    assert again.spec.identity == data.spec.identity != source.spec.identity
    assert next(iter(data.train_dataloader()))._fields == ("x", "y", "row")


def test_wrong_parts() -> None:
    with pytest.raises(DataError, match="expected one of hue"):
        Parts(Species(20), 16, parts=["head"])
    with pytest.raises(DataError, match="hue red: 16 train pictures where 150"):
        Parts(Species(20, 2, 1), 16).setup()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six photos of three kinds; the bird is a light square in the box."""
    tables: dict[str, list[str]] = {
        name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes")
    }
    for n in range(1, 7):
        folder = tmp_path / "images" / f"{n % 3:03d}.kind"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.full((60, 80, 3), 20, np.uint8)
        pixels[10:40, 20:65] = (200, 100 + 10 * n, 50)
        pixels[20:30, 30:40] = 0
        Image.fromarray(pixels).save(folder / f"{n}.png")
        tables["images"].append(f"{n} {n % 3:03d}.kind/{n}.png")
        tables["image_class_labels"].append(f"{n} {n % 3 + 1}")
        tables["train_test_split"].append(f"{n} {int(n <= 4)}")
        tables["bounding_boxes"].append(f"{n} 20.0 10.0 45.0 30.0")
    for name, table in tables.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(table) + "\n")
    return tmp_path


def test_birds_are_cropped_and_squashed(root: Path) -> None:
    data = Birds(str(root), 2, image_size=16, copies=0, num_workers=0)
    assert data.available() == ""
    data.setup()
    assert data.spec.sizes == {"train": 4, "val": 0, "test": 2}
    assert data.spec.classes[:3] == ("000.kind", "001.kind", "002.kind")
    batch = next(iter(data.test_dataloader()))
    assert batch._fields == ("x", "y", "row")
    assert (batch.y.tolist(), batch.row.tolist()) == ([2, 0], [0, 1])
    shown = data.shown(batch.x)
    assert (255 * shown[0, :, 0, 0]).round().tolist() == [200, 150, 50]  # no background is left
    assert float(shown.min()) < 0.2
    rows = torch.cat([b.row for b in data.train_dataloader()])
    assert sorted(rows.tolist()) == [0, 1, 2, 3]
    assert data.training_images([2]).shape == (1, 3, 16, 16)


def test_copies_are_fixed_by_the_seed_as_copies_on_a_disc(root: Path) -> None:
    data = Birds(str(root), 4, image_size=16, copies=6, num_workers=0)
    data.setup()
    assert data.spec.sizes["train"] == 24
    dataset = data._dataset("train")
    first, later = dataset[(0, 7)], dataset[(5, 7)]
    assert torch.equal(first[0], later[0])
    assert first[1:] == later[1:] == (2, 1)  # the second photo
    assert not torch.equal(dataset[(0, 6)][0], first[0])
    other = Birds(str(root), 4, image_size=16, copies=6, num_workers=0, seed=1)
    other.setup()
    assert not torch.equal(other._dataset("train")[(0, 7)][0], first[0])
    rows = torch.cat([b.row for b in data.train_dataloader()])
    assert rows.bincount().tolist() == [6] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_distorted_copies_have_no_empty_corners(kind: str) -> None:
    image = Image.fromarray(np.full((50, 70, 3), 255, np.uint8))
    for seed in range(20):
        torch.manual_seed(seed)
        made = distort(image, kind)
        assert made.size == image.size
        assert np.asarray(made)[2:-2, 2:-2].min() > 200, seed


def test_the_largest_rectangle_inside_a_turned_one() -> None:
    assert inscribed(4, 3, 0) == (4, 3)
    assert inscribed(1, 1, 45) == pytest.approx((math.sqrt(0.5),) * 2)


def test_modified_birds_are_changed_before_they_are_squashed(root: Path) -> None:
    data = ModifiedBirds(str(root), 3, STRENGTHS, image_size=16, num_workers=0)
    data.setup()
    assert data.spec.sizes == {"train": 4, "val": 0, "test": 6}
    batches = list(data.test_dataloader())
    x, in_test = torch.cat([b.x for b in batches]), torch.cat([b.in_test for b in batches])
    assert x.shape == (6, 6, 3, 16, 16)
    assert in_test.tolist() == [0, 0, 0, 0, 1, 1]
    plain = Birds(str(root), 3, image_size=16, copies=0, num_workers=0)
    plain.setup()
    assert torch.equal(x[:4, 0], plain.training_images([0, 1, 2, 3]))
    dataset = data._dataset("test")
    crop = torch.from_numpy(np.asarray(dataset.crop(dataset.birds[0])).copy()).permute(2, 0, 1)[None]
    warped = modify(crop, STRENGTHS)["shape"]
    assert torch.equal(x[0, 1 + data.names.index("shape")], dataset.finish(warped)[0])


def test_generated_birds_have_the_declared_shapes() -> None:
    birds = Birds("nowhere", 4, image_size=32, generated=True)
    birds.setup()
    assert next(iter(birds.train_dataloader())).x.shape == (4, 3, 32, 32)
    assert birds.spec.sizes == {"train": 179_820, "val": 0, "test": 5794}
    modified = ModifiedBirds("nowhere", 4, image_size=32, generated=True)
    modified.setup()
    batch = next(iter(modified.test_dataloader()))
    assert batch.x.shape == (4, 6, 3, 32, 32)
    assert batch.in_test.tolist() == [0, 1, 0, 1]
    assert modified.spec.sizes["test"] == 11_788


def test_what_is_missing_or_damaged_is_named(root: Path) -> None:
    assert "has no images.txt" in Birds(str(root / "nowhere"), 2).available()
    with pytest.raises(DataError, match="CUB-200-2011"):
        Birds(str(root / "nowhere"), 2).setup()
    with pytest.raises(DataError, match="multiple of 3"):
        Birds(str(root), 2, copies=10)
    data = Birds(str(root), 2, copies=0, num_workers=0)
    data.setup()
    (root / "images" / data.birds["train"][0].file).write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1\.png cannot be decoded"):
        data._dataset("train")[(0, 0)]
    (root / "bounding_boxes.txt").write_text("1 2 3\n")
    with pytest.raises(DataError, match="cannot be read"):
        Birds(str(root), 2).setup()
