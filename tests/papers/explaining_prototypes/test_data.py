"""Modified pictures of small sets and modified birds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.common.base import DataError
from datamodules.common.cub import Birds, to_square
from datamodules.common.species import ATTRIBUTES, Species, values_of
from datamodules.explaining_prototypes.birds import ModifiedBirds
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
    assert data.spec.split == f"squares around the hue, texture, outline parts; {source.spec.split}"
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


def test_modified_birds_are_changed_before_they_are_squashed(birds: Path) -> None:
    data = ModifiedBirds(str(birds), 3, STRENGTHS, image_size=16, num_workers=0)
    data.setup()
    assert data.spec.sizes == {"train": 4, "val": 0, "test": 6}
    batches = list(data.test_dataloader())
    x, in_test = torch.cat([b.x for b in batches]), torch.cat([b.in_test for b in batches])
    assert x.shape == (6, 6, 3, 16, 16)
    assert in_test.tolist() == [0, 0, 0, 0, 1, 1]
    plain = Birds(str(birds), 3, image_size=16, num_workers=0)
    plain.setup()
    assert torch.equal(x[:4, 0], plain.training_images([0, 1, 2, 3]))
    dataset = data._dataset("test")
    crop = torch.from_numpy(np.asarray(dataset.photos[0][0]).copy()).permute(2, 0, 1)[None]
    warped = modify(crop, STRENGTHS)["shape"]
    assert torch.equal(x[0, 1 + data.names.index("shape")], to_square(warped, 16)[0])


def test_generated_modified_birds_have_the_declared_shapes() -> None:
    modified = ModifiedBirds("nowhere", 4, image_size=32, generated=True)
    modified.setup()
    batch = next(iter(modified.test_dataloader()))
    assert batch.x.shape == (4, 6, 3, 32, 32)
    assert batch.in_test.tolist() == [0, 1, 0, 1]
    assert modified.spec.sizes["test"] == 11_788
