"""ARIA's folders: siblings stay together, generated is 1, what is broken is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.aria.folders import CATEGORIES, GENERATORS, MODES, NAMES, Aria, split_of
from datamodules.common.base import DataError


def test_the_published_numbers_of_categories_add_up() -> None:
    assert 43_075 + 25_288 + 26_559 + 22_988 + 26_265 == 144_175


@pytest.fixture
def aria(tmp_path: Path) -> Callable[..., Aria]:
    random = np.random.default_rng(0)
    folders = ["REAL", *(f"{name}/{mode}" for name in GENERATORS for mode in MODES)]
    for folder in folders:
        for category in CATEGORIES:
            place = tmp_path / folder / category
            place.mkdir(parents=True)
            for seed in range(12):
                pixels = random.integers(0, 256, (9, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{seed}.png")

    def make(**options: Any) -> Aria:
        return Aria(str(tmp_path), 16, **{"train_on": ["dalle_t2i"], "image_size": 8, "num_workers": 0, **options})

    return make


def seeds(data: Aria, split: str) -> set[tuple[str, str]]:
    return {(Path(item[0]).parts[-2], Path(item[0]).stem) for item in data.items[split]}


def test_siblings_of_a_seed_are_in_one_split(aria: Callable[..., Aria]) -> None:
    data = aria(train_on=NAMES)
    data.setup()
    splits = [seeds(data, name) for name in ("train", "val", "test")]
    assert sum(len(part) for part in splits) == len(set.union(*splits)) == 12 * len(CATEGORIES)
    assert len(data.items["test"]) == 9 * len(splits[2])
    shares = [split_of(str(number), "art") for number in range(3000)]
    assert shares.count("train") / 3000 == pytest.approx(0.8, abs=0.03)


def test_training_sees_what_is_named_and_the_test_everything(aria: Callable[..., Aria]) -> None:
    data = aria(categories=["art", "news"])
    data.setup()
    assert {item[2] for item in data.items["train"]} == {-1, NAMES.index("dalle_t2i")}
    assert {CATEGORIES[item[3]] for item in data.items["train"]} == {"art", "news"}
    assert {item[2] for item in data.items["test"]} == {-1, *range(8)}
    assert all((item[1] == 0) == item[0].startswith("REAL/") for items in data.items.values() for item in items)


@pytest.mark.parametrize("matched", [False, True])
def test_two_tests_are_the_same(aria: Callable[..., Aria], matched: bool) -> None:
    data = aria(matched=matched)
    data.setup()
    first, second = (torch.cat([batch.x for batch in data.test_dataloader()]) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape[1:] == data.spec.shape


def test_what_is_missing_or_broken_is_named(aria: Callable[..., Aria], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train_on: 'imagen'"):
        aria(train_on=["imagen"])
    with pytest.raises(DataError, match="categories: 'cats'"):
        aria(categories=["cats"])
    assert "has no REAL folder" in Aria(str(tmp_path / "nowhere"), 4, ["dalle_t2i"]).available()
    for file in (tmp_path / "StarryAI" / "IT2I" / "ins").iterdir():
        file.write_bytes(b"no picture")
    data = aria()
    data.setup()
    with pytest.raises(DataError, match=r"StarryAI/IT2I/ins/.*cannot be decoded"):
        list(data.test_dataloader())
    skipped = aria(skip=[f"StarryAI/IT2I/ins/{seed}.png" for seed in range(12)])
    skipped.setup()
    assert len(list(skipped.test_dataloader()))
