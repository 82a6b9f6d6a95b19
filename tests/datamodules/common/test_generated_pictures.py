"""Real and generated pictures have one history; nobody sees a picture of another's part."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.common.base import DataError, Fed
from datamodules.common.generated_pictures import GeneratorSets, RealOrGenerated, finish, to_bytes
from datamodules.common.photo_regions import PhotoRegions

NAMES = ("one", "two")


@pytest.fixture
def source() -> PhotoRegions:
    return PhotoRegions(8, 12, 6, 4, seed=1)


@pytest.fixture
def serve(source: PhotoRegions) -> Callable[..., RealOrGenerated]:
    """Generators whose pictures are the real ones, with their number in the first pixel."""

    def make(**options: Any) -> RealOrGenerated:
        source.setup()
        real = torch.cat([source.splits["val"][0], source.splits["test"][0]])
        fed = []
        for number in range(2):
            pictures = real.clone()
            pictures[:, :, 0, 0] = number
            fed.append(Fed(torch.nn.Identity(), {"pictures": pictures.numpy()}))
        return RealOrGenerated(source, 8, **{"names": NAMES, "train_on": ["one"], "generators": fed, **options})

    return make


def rows(data: Any, split: str) -> dict[str, Tensor]:
    data.setup()
    loader = data.train_dataloader() if split == "train" else data.test_dataloader()
    batches = list(loader)
    return {name: torch.cat([getattr(batch, name) for batch in batches]) for name in batches[0]._fields}


def test_bytes_by_hand() -> None:
    x = torch.tensor([-0.1, 0.0, 0.5, 0.998, 1.2])
    assert to_bytes(x).tolist() == [0, 0, 128, 254, 255]
    assert to_bytes(torch.tensor([7], dtype=torch.uint8)).tolist() == [7]


@pytest.mark.parametrize("jpeg", [None, 90, 50])
def test_real_pictures_are_the_same_through_both_branches(source: PhotoRegions, jpeg: int | None) -> None:
    """As files of bytes, and as a generator would give them: numbers from 0 to 1."""
    source.setup()
    real = source.splits["test"][0]
    assert torch.equal(finish(real, jpeg), finish(real.float() / 255, jpeg))
    assert torch.equal(finish(real, jpeg), real) == (jpeg is None)


def test_real_against_real_cannot_be_told_apart(source: PhotoRegions) -> None:
    """A generator that copies: every column but the label is the same for both classes, also with a JPEG file."""
    source.setup()
    copies = Fed(torch.nn.Identity(), {"pictures": torch.cat([source.splits[n][0] for n in ("val", "test")]).numpy()})
    data = RealOrGenerated(source, 8, ["copy"], ["copy"], [copies], jpeg=80)
    test = rows(data, "test")
    real, fake = test["x"][test["y"] == 0], test["x"][test["y"] == 1]
    assert torch.equal(real, fake)


def test_only_real_pictures_are_jpeg_where_that_is_asked(serve: Callable[..., RealOrGenerated]) -> None:
    plain, leaky = rows(serve(), "test"), rows(serve(jpeg=50, only_real=True), "test")
    fake = plain["y"] == 1
    assert torch.equal(plain["x"][fake], leaky["x"][fake])
    assert not torch.equal(plain["x"][~fake], leaky["x"][~fake])


def test_generators_and_detectors_have_parts_of_their_own(
    source: PhotoRegions, serve: Callable[..., RealOrGenerated]
) -> None:
    sets = GeneratorSets(source, 4)
    seen = rows(sets, "train")["x"]
    asked = rows(sets, "test")["x"]
    source.setup()
    back = ((asked + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(back, torch.cat([source.splits["val"][0], source.splits["test"][0]]))
    assert sets.spec.sizes == {"train": 12, "val": 0, "test": 10}

    data = serve()
    trained, tested = rows(data, "train"), rows(data, "test")
    keys = [{tuple(x.flatten().tolist()) for x in part} for part in (seen, trained["x"], tested["x"])]
    assert all(a.isdisjoint(b) for a, b in itertools.combinations(keys, 2))


def test_training_is_balanced_and_the_test_has_everybody(serve: Callable[..., RealOrGenerated]) -> None:
    data = serve(train_on=["one", "two"])
    trained, tested = rows(data, "train"), rows(data, "test")
    assert sorted(trained["subset"].tolist()) == [-1] * 6 + [0] * 3 + [1] * 3
    assert trained["y"].sum() == 6
    assert sorted(tested["subset"].tolist()) == [-1] * 4 + [0] * 4 + [1] * 4
    assert data.spec.sizes == {"train": 12, "val": 0, "test": 12}
    first = ((tested["x"][:, 0, 0, 0] + 1) * 127.5).round()
    assert torch.equal(first[tested["y"] == 1], tested["subset"][tested["y"] == 1].float())


def test_categories_that_are_left_out_are_not_trained_on(
    source: PhotoRegions, serve: Callable[..., RealOrGenerated]
) -> None:
    source.setup()
    first = int(source.splits["val"][1][0])
    data = serve(categories=[first])
    assert set(rows(data, "train")["category"].tolist()) == {first}
    assert rows(data, "test")["category"].tolist() == source.splits["test"][1].tolist() * 3


def test_bad_input_is_named(serve: Callable[..., RealOrGenerated], source: PhotoRegions) -> None:
    with pytest.raises(DataError, match="train_on: 'three': expected some of one, two"):
        serve(train_on=["three"])
    with pytest.raises(DataError, match="expected one for each of 0 stages"):
        RealOrGenerated(source, 8, NAMES, ["one"])
    with pytest.raises(DataError, match=r"categories=\[7\]"):
        serve(categories=[7]).setup()
    data = serve()
    data.generators = [Fed(torch.nn.Identity(), {"pictures": torch.zeros(3, 3, 32, 32, dtype=torch.uint8).numpy()})] * 2
    with pytest.raises(DataError, match="generator 'one' made pictures"):
        data.setup()
