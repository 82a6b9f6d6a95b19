"""Retrieval tasks made from images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.common.base import DataError, Fed, hashed
from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.off_the_shelf.crops import Crops, Cut


def crops(**options: object) -> Crops:
    source = FashionMNIST(50, seed=3, train_size=80, val_size=0, test_size=30)
    return Crops(source, 10, **{"references": 20, "queries": 12, "grid": 2, **options})  # type: ignore[arg-type]


def test_an_upright_whole_query_is_its_reference() -> None:
    data = crops(cut=Cut(1.0, rotation=0.0, mirror=False))
    data.setup()
    queries = data.rows["test"]
    relevance = data.targets["test"]
    assert relevance.sum(1).tolist() == [1] * 12
    assert len(relevance.argmax(1).unique()) == 12
    assert torch.equal(data.array[queries], data.array[relevance.argmax(1)])
    assert torch.equal(data.images(queries[:1]), data.array[queries[:1]].float() / 255)


def test_a_query_shows_a_part_of_its_reference() -> None:
    """Cut upright and shrunk to the reference's scale, the square fits best into the reference it was cut from."""
    data = crops(cut=Cut(0.5, rotation=0.0, mirror=False))
    data.setup()
    small = torch.nn.functional.avg_pool2d(data.array[data.rows["test"]].float(), 2)  # (Q, 1, 28, 28)
    windows = data.array[:20, 0].float().unfold(1, 28, 1).unfold(2, 28, 1)  # (R, 29, 29, 28, 28)
    actual = [int((windows - query).square().mean((3, 4)).flatten(1).amin(1).argmin()) for query in small]
    assert actual == data.targets["test"].argmax(1).tolist()


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


def test_a_cut_larger_than_the_reference_is_refused() -> None:
    with pytest.raises(DataError, match=r"side=1\.5"):
        Cut(1.5)


def test_a_grey_query_is_the_mean_of_its_colours() -> None:
    images = torch.rand(2, 3, 6, 6)
    whole = Cut(1.0, rotation=0.0, mirror=False, grey=True)(images, torch.Generator())
    assert torch.allclose(whole, images.mean(1, keepdim=True).expand(2, 3, 6, 6), atol=1e-6)


def test_words_say_how_queries_are_made() -> None:
    spec = crops(cut=Cut(0.25, grey=True)).spec
    assert spec.name == f"squares cut from {crops().source.spec.name}"
    assert crops(grid=1).spec.split.startswith("references are whole images; a query is ")
    split = spec.split
    assert split.startswith("references are canvases of 2x2 images; a query is ")
    assert (
        "a square of 25% of the side cut from one of them, turned by up to 15 degrees, mirrored at random, grey"
        in split
    )


def test_references_are_served_before_the_queries() -> None:
    stage = Fed(nn.Identity(), {"features": np.arange(64, dtype=np.float32).reshape(32, 1, 2)})
    data = crops(features=stage)
    data.setup()
    loaders = data.test_dataloader()
    assert isinstance(loaders, list)
    references, queries = (torch.cat([batch.x for batch in loader]) for loader in loaders)
    assert torch.equal(references, torch.tensor(stage.arrays["features"][:20]))
    assert torch.equal(queries, torch.tensor(stage.arrays["features"][20:]))
    assert torch.equal(torch.cat([batch.y for batch in loaders[1]]), data.targets["test"])
    assert torch.equal(torch.cat([batch.x for batch in data.train_dataloader()]), references)


def test_stand_in_data_has_a_batch_of_each() -> None:
    data = crops(generated=True)
    data.setup()
    (images, _), *rest = data.train_dataloader()
    assert images.shape == (10, 1, 56, 56)
    assert len(rest) == 1
    assert data.spec.source == "generated"
