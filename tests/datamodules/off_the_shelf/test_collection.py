"""Images by row number, and retrieval tasks made from images."""

from __future__ import annotations

import pytest
import torch

from datamodules.common.base import DataError, hashed
from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.off_the_shelf.collection import ArrayCollection, Crops


def source(seed: int = 3, **options: int) -> FashionMNIST:
    return FashionMNIST(50, seed=seed, **{"train_size": 60, "val_size": 0, "test_size": 30, **options})  # type: ignore[arg-type]


def splits() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    there = source()
    there.setup()
    return there.splits


def crops(**options: object) -> Crops:
    return Crops(source(train_size=80), 10, **{"references": 20, "queries": 12, "grid": 2, **options})  # type: ignore[arg-type]


def test_exports_serve_every_row_once_and_no_target() -> None:
    data = ArrayCollection(source(), 16, exports=True)
    data.setup()
    batches = list(data.train_dataloader())
    rows = torch.cat([row for _, row in batches])
    assert rows.sort().values.tolist() == list(range(90))
    images = torch.cat([image for image, _ in batches])
    train = splits()["train"][0]
    assert torch.equal(images[rows == 7][0], train[7].float() / 255)
    assert [r.tolist() for _, r in data.test_dataloader()] == [list(range(60, 76)), list(range(76, 90))]


def test_rows_carry_the_labels_of_their_images() -> None:
    data = ArrayCollection(source(), 16, first=20)
    data.setup()
    train, test = splits()["train"][1], splits()["test"][1]
    served = {int(r): int(t) for rows, targets in data.train_dataloader() for r, t in zip(rows, targets, strict=True)}
    assert served == {row: int(train[row]) for row in range(20)}
    tested = {int(r): int(t) for rows, targets in data.test_dataloader() for r, t in zip(rows, targets, strict=True)}
    assert tested == {60 + i: int(test[i]) for i in range(30)}
    assert data.spec.sizes == {"train": 20, "val": 0, "test": 30}
    with pytest.raises(DataError, match="first=61"):
        ArrayCollection(source(), 16, first=61).setup()


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


def test_an_upright_whole_query_is_its_reference() -> None:
    data = crops(side=1.0, rotation=0.0, mirror=False)
    data.setup()
    queries, relevance = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
    assert relevance.sum(1).tolist() == [1] * 12
    assert len(relevance.argmax(1).unique()) == 12
    assert torch.equal(data.array[queries], data.array[relevance.argmax(1)])
    assert torch.equal(data.images(queries[:1]), data.array[queries[:1]].float() / 255)


def test_a_query_shows_a_part_of_its_reference() -> None:
    """Cut upright and shrunk to the reference's scale, the square fits best into the reference it was cut from."""
    data = crops(side=0.5, rotation=0.0, mirror=False)
    data.setup()
    small = torch.nn.functional.avg_pool2d(data.array[data.rows["test"]].float(), 2)  # (Q, 1, 28, 28)
    windows = data.array[:20, 0].float().unfold(1, 28, 1).unfold(2, 28, 1)  # (R, 29, 29, 28, 28)
    found = [int((windows - query).square().mean((3, 4)).flatten(1).amin(1).argmin()) for query in small]
    assert found == data.targets["test"].argmax(1).tolist()


def test_canvases_hold_different_images_and_the_seed_decides() -> None:
    data, again, other = crops(), crops(), crops(seed=1)
    for each in (data, again, other):
        each.setup()
    quarters = data.array[:20].unfold(2, 28, 28).unfold(3, 28, 28).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    assert len({hashed(quarter) for quarter in quarters}) == 80
    assert torch.equal(data.array, again.array)
    assert not torch.equal(data.array, other.array)
    assert data.spec.sizes == {"train": 20, "val": 0, "test": 12}


@pytest.mark.parametrize(
    ("options", "message"),
    [({"grid": 3}, "grid=3"), ({"queries": 21}, "queries=21"), ({"references": 21}, "84 are needed")],
)
def test_what_cannot_be_cut_is_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        crops(**options).setup()


def test_stand_in_data_has_a_batch_of_each() -> None:
    data = crops(generated=True)
    data.setup()
    (images, _), *rest = Crops.train_dataloader(crops_exporting(data))
    assert images.shape == (10, 1, 56, 56)
    assert len(rest) == 1
    assert data.spec.source == "generated"


def crops_exporting(data: Crops) -> Crops:
    data.exports = True
    return data
