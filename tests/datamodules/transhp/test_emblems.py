"""Generated emblems: what stands in a picture's cells is what its label and its scene say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from datamodules.common.base import DataError
from datamodules.transhp.emblems import ALPHABETS, CLASSES, FINE, REACH, Emblems, Scene, draw, patterns
from datamodules.transhp.hierarchies import emblems as hierarchy


def cells(labels: Tensor, scene: Scene, seed: int = 0) -> Tensor:
    """The cells of the pictures of these classes, -1, 0 and 1 without noise: (N, 16, 5, 5)."""
    pictures = draw(labels, scene, torch.Generator().manual_seed(seed)).float() / 255 * 2 * REACH - REACH
    return pictures.view(-1, 4, 5, 4, 5).transpose(2, 3).reshape(-1, 16, 5, 5)


def count(shown: Tensor, pattern: Tensor) -> Tensor:
    """How many cells of each picture show a pattern, (N,)."""
    return (shown - pattern).abs().amax((2, 3)).lt(0.1).sum(1)


def test_patterns_differ() -> None:
    emblems, symbols = patterns()
    flat = torch.cat([emblems.view(20, 25), symbols.view(20, 25)])
    agreement = flat @ flat.T / 25
    assert torch.equal(flat.abs(), torch.ones(40, 25))
    assert float((agreement - torch.eye(40)).abs().max()) < 0.8


def test_pictures_show_what_their_scene_says() -> None:
    """Three emblems, two symbols that count, one of each other alphabet, four other emblems; the rest is empty."""
    emblems, symbols = patterns()
    labels = torch.arange(100)
    shown = cells(labels, Scene(emblems=3, symbols=2, strangers=4, noise=0.0))

    emblem_counts = torch.stack([count(shown, emblem) for emblem in emblems], 1)  # (100, 20)
    own = emblem_counts.gather(1, (labels // FINE)[:, None])[:, 0]
    assert own.tolist() == [3] * 100
    assert emblem_counts.sum(1).tolist() == [7] * 100
    assert int(emblem_counts.amax()) == 3  # strangers are of different classes

    for label in labels.tolist():
        by_alphabet = [[int(count(shown[label : label + 1], s)) for s in alphabet] for alphabet in symbols]
        read = by_alphabet.pop(label // FINE % ALPHABETS)
        assert read == [2 * (f == label % FINE) for f in range(FINE)]
        assert [sum(counts) for counts in by_alphabet] == [1, 1, 1]
    empty = shown.abs().amax((2, 3)).lt(0.1).sum(1)
    assert empty.tolist() == [16 - 3 - 2 - 3 - 4] * 100


def test_a_scene_without_strangers_shows_one_emblem_alone() -> None:
    emblems, _ = patterns()
    labels = torch.arange(0, 100, 7)
    shown = cells(labels, Scene(emblems=3, strangers=0, noise=0.0))
    counts = torch.stack([count(shown, emblem) for emblem in emblems], 1)
    assert counts.tolist() == [[3 * (k == label // FINE) for k in range(20)] for label in labels.tolist()]


def test_cells_are_in_random_places() -> None:
    emblem = patterns()[0][0]
    shown = cells(torch.zeros(800, dtype=torch.long), Scene(emblems=1, noise=0.0))
    place = (shown - emblem).abs().amax((2, 3)).lt(0.1).float().mean(0)  # (16,)
    assert torch.allclose(place, torch.full((16,), 1 / 16), atol=0.03)


def test_normalised_pixels_have_mean_0_and_deviation_1() -> None:
    data = Emblems(50, Scene(emblems=2, strangers=3, noise=0.6), 400, 0, 100)
    data.setup()
    pixels = data.normalised(data.splits["train"][0])
    assert float(pixels.mean()) == pytest.approx(0, abs=0.1)  # random signs do not quite cancel
    assert float(pixels.std()) == pytest.approx(1, rel=0.03)


def test_splits_are_balanced_apart_and_fixed_by_the_seed() -> None:
    data = Emblems(50, None, 300, 100, 200)
    data.setup()
    labels = torch.cat([data.splits[name][1] for name in ("train", "val")])
    assert labels.bincount().tolist() == [4] * len(CLASSES)
    assert data.splits["test"][1].bincount().tolist() == [2] * len(CLASSES)
    images = {name: {image.numpy().tobytes() for image in split[0]} for name, split in data.splits.items()}
    assert len(images["train"] | images["val"] | images["test"]) == 600

    again, other = Emblems(50, None, 300, 100, 200), Emblems(50, None, 300, 100, 200, seed=1)
    again.setup()
    other.setup()
    assert torch.equal(again.splits["train"][0], data.splits["train"][0])
    assert not torch.equal(other.splits["train"][0], data.splits["train"][0])


def test_the_hierarchy_is_the_one_that_is_drawn() -> None:
    there = hierarchy()
    assert there.classes == 100
    assert there.prompts == [20]
    assert there.table(None)[:, 0].tolist() == [label // FINE for label in range(100)]  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"emblems": 0}, {"symbols": 0}, {"strangers": 7}, {"noise": -1.0}])
def test_scenes_that_cannot_be_drawn(wrong: dict[str, float]) -> None:
    with pytest.raises(DataError, match="expected 1 or more emblems and symbols, 13 cells in all at most"):
        Scene(**wrong)  # type: ignore[arg-type]


def test_a_split_has_an_image_at_least_and_none_of_them_fewer_than_none() -> None:
    data = Emblems(1, None, 1, 0, 1)
    data.setup()
    assert data.spec.sizes == {"train": 1, "val": 0, "test": 1}
    assert data.spec.where == "made by the suite"
    for wrong in ((0, 0, 1), (1, 0, 0), (2, -1, 1)):
        said = "'train': {}, 'val': {}, 'test': {}".format(*wrong)
        with pytest.raises(DataError, match=said):
            Emblems(1, None, *wrong)
