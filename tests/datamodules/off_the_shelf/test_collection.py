"""Images by row number, and the features that later stages are fed with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.common.base import DataError, Fed, hashed
from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.off_the_shelf.collection import ArrayCollection


def source(seed: int = 3, **options: int) -> FashionMNIST:
    return FashionMNIST(50, seed=seed, **{"train_size": 60, "val_size": 0, "test_size": 30, **options})  # type: ignore[arg-type]


def splits() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    there = source()
    there.setup()
    return there.splits


class Made(nn.Module):
    """What a dry run has of a stage: a module that made features of some rows."""

    def artifacts(self) -> dict[str, np.ndarray]:
        return {"features": np.zeros((4, 3, 5), np.float32)}


def export(rows: int, d: int = 5, seed: int = 0) -> Fed:
    """Features (rows, 3, d) of a finished stage, as the engine hands them out: not to be written to."""
    array = np.random.default_rng(seed).normal(size=(rows, 3, d)).astype(np.float32)
    array.flags.writeable = False
    return Fed(nn.Identity(), {"features": array})


def test_validation_images_are_exported_and_served_with_features_alone() -> None:
    data = ArrayCollection(source(val_size=20), 16)
    data.setup()
    assert len(torch.cat([row for _, row in data.train_dataloader()])) == 110
    assert data.val_dataloader() == []
    assert data.spec.sizes == {"train": 60, "val": 20, "test": 30}

    there = source(val_size=20)
    there.setup()
    features = export(110)
    fed = ArrayCollection(source(val_size=20), 16, features)
    fed.setup()
    (loader,) = fed.val_dataloader()
    assert np.array_equal(torch.cat([batch.x for batch in loader]).numpy(), features.arrays["features"][90:])
    assert torch.equal(torch.cat([batch.y for batch in loader]), there.splits["val"][1])
    assert len(torch.cat([batch.y for batch in fed.train_dataloader()])) == 60


def test_exports_serve_every_row_once_and_no_target() -> None:
    data = ArrayCollection(source(), 16)
    data.setup()
    batches = list(data.train_dataloader())
    rows = torch.cat([row for _, row in batches])
    assert rows.sort().values.tolist() == list(range(90))
    images = torch.cat([image for image, _ in batches])
    train = splits()["train"][0]
    assert torch.equal(images[rows == 7][0], train[7].float() / 255)
    assert [r.tolist() for _, r in data.test_dataloader()] == [list(range(60, 76)), list(range(76, 90))]


@pytest.mark.filterwarnings("error")
def test_features_are_served_with_the_labels_of_their_images() -> None:
    exported = export(90)
    data = ArrayCollection(source(), 16, features=exported, first=20)
    data.setup()
    batches = list(data.train_dataloader())
    assert [len(batch.x) for batch in batches] == [16, 4]
    features = torch.tensor(exported.arrays["features"])
    assert torch.equal(torch.cat([batch.x for batch in batches]), features[:20])  # in order
    assert torch.equal(torch.cat([batch.y for batch in batches]), splits()["train"][1][:20])

    tested = list(data.test_dataloader())
    assert torch.equal(torch.cat([batch.x for batch in tested]), features[60:])
    assert torch.equal(torch.cat([batch.y for batch in tested]), splits()["test"][1])
    assert data.spec.sizes == {"train": 20, "val": 0, "test": 30}
    assert data.spec.shape == (3, 5)
    with pytest.raises(DataError, match="first=61"):
        ArrayCollection(source(), 16, features=exported, first=61).setup()


def test_several_exports_are_columns() -> None:
    exports = [export(90), export(90, 7, seed=1)]
    data = ArrayCollection(source(), 16, features=exports)
    data.setup()
    batch = next(iter(data.test_dataloader()))
    assert batch._fields == ("x", "x2", "y")
    assert torch.equal(batch.x2, torch.tensor(exports[1].arrays["features"][60:76]))


def test_features_of_other_images_are_refused() -> None:
    with pytest.raises(DataError, match=r"features of 80 images, but Fashion-MNIST .* has 90"):
        ArrayCollection(source(), 16, features=export(80)).setup()


def test_stand_in_features_need_no_array() -> None:
    """A dry run hands out the module alone."""
    data = ArrayCollection(source(), 6, features=Fed(Made(), {}), generated=True)
    data.setup()
    (batch,) = data.train_dataloader()
    assert batch.x.shape == (6, 3, 5)
    assert torch.allclose(batch.x.norm(dim=-1), torch.ones(6, 3))
    assert not torch.equal(batch.x, next(iter(data.test_dataloader())).x)
    assert (data.spec.source, data.spec.shape) == ("generated", (3, 5))


def test_training_and_test_images_differ() -> None:
    data = ArrayCollection(source(train_size=400, test_size=200), 100)
    data.setup()
    train, test = ({hashed(image) for image in data.array[data.rows[name]]} for name in ("train", "test"))
    assert not train & test


def test_attributes_are_those_of_the_class() -> None:
    table = [[k % 2, int(k > 4)] for k in range(10)]
    data = ArrayCollection(source(), 16, attributes=table, names=["odd", "large"])
    data.setup()
    assert data.targets["train"].tolist() == [table[label] for label in splits()["train"][1]]
    assert data.spec.classes == ("odd", "large")
    with pytest.raises(DataError, match="expected 10 rows"):
        ArrayCollection(source(), 16, attributes=table[:3], names=["odd", "large"])


def test_a_source_is_read_once_for_all_stages_with_the_same_settings() -> None:
    first, second, other = (ArrayCollection(source(seed), 16) for seed in (3, 3, 4))
    for data in (first, second, other):
        data.setup()
    assert torch.equal(first.array, second.array)
    assert not second.source.splits  # served from what the first one read
    assert not torch.equal(first.array, other.array)
    assert first.spec.identity == second.spec.identity != other.spec.identity
