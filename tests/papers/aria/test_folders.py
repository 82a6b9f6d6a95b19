"""ARIA's folders: siblings stay together, generated is 1, what is broken is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.aria.folders import CATEGORIES, GENERATORS, MODES, NAMES, Aria, Files, Shown, TrainedOn, split_of
from datamodules.aria.headers import FIELDS, Headers, read_header
from datamodules.common.base import DataError
from modules.aria.headers import HeaderNet


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

    def make(matched: bool = False, files: Files | None = None, seed: int = 0, **options: Any) -> Aria:
        trained_on = TrainedOn(**{"generators": ["dalle_t2i"], **options})
        return Aria(str(tmp_path), 16, trained_on, Shown(8, matched), files, num_workers=0, seed=seed)

    return make


def seeds(data: Aria, split: str) -> set[tuple[str, str]]:
    return {(Path(item[0]).parts[-2], Path(item[0]).stem) for item in data.items[split]}


def test_siblings_of_a_seed_are_in_one_split(aria: Callable[..., Aria]) -> None:
    data = aria(generators=NAMES)
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
    every = [item for items in data.items.values() for item in items]
    assert all(item[1] == (0 if item[0].startswith("REAL/") else 1) for item in every)


@pytest.mark.parametrize("matched", [False, True])
def test_two_tests_are_the_same(aria: Callable[..., Aria], matched: bool) -> None:
    data = aria(matched=matched)
    data.setup()
    first, second = (torch.cat([batch.x for batch in data.test_dataloader()]) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape[1:] == data.spec.shape


def test_what_is_missing_or_broken_is_named(aria: Callable[..., Aria], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="generators: 'imagen'"):
        aria(generators=["imagen"])
    with pytest.raises(DataError, match="categories: 'cats'"):
        aria(categories=["cats"])
    assert "has no REAL folder" in Aria(str(tmp_path / "nowhere"), 4, TrainedOn()).available()
    for file in (tmp_path / "StarryAI" / "IT2I" / "ins").iterdir():
        file.write_bytes(b"no picture")
    data = aria()
    data.setup()
    with pytest.raises(DataError, match=r"StarryAI/IT2I/ins/.*cannot be decoded"):
        list(data.test_dataloader())
    skipped = aria(files=Files(skip=[f"StarryAI/IT2I/ins/{seed}.png" for seed in range(12)]))
    skipped.setup()
    assert len(list(skipped.test_dataloader()))


def test_validation_is_of_the_training_sources_alone(aria: Callable[..., Aria]) -> None:
    data = aria(generators=["midjourney_it2i"])
    data.setup()
    (loader,) = data.val_dataloader()
    assert set(torch.cat([batch.subset for batch in loader]).tolist()) == {-1, NAMES.index("midjourney_it2i")}
    assert aria(generators=[]).val_dataloader() == []


def test_sizes_are_stated_before_anything_is_read() -> None:
    one = Aria("nowhere", 4, TrainedOn(["dalle_t2i"])).spec.sizes
    assert one == {"train": 2 * 144_175 // 9 * 8 // 10, "val": 2 * 144_175 // 9 // 10, "test": 14_417}
    assert Aria("nowhere", 4, TrainedOn(NAMES)).spec.sizes == one
    assert Aria("nowhere", 4, TrainedOn(NAMES, share=False)).spec.sizes["train"] == 144_175 * 8 // 10
    assert Aria("nowhere", 4, TrainedOn(NAMES, ["art"])).spec.sizes["val"] == 2 * 144_175 // 45 // 10


def test_several_generators_share_the_seeds(aria: Callable[..., Aria]) -> None:
    data = aria(generators=NAMES)
    data.setup()
    real = [item for item in data.items["train"] if not item[1]]
    fake = [item for item in data.items["train"] if item[1]]
    assert len(fake) == len(real)
    assert {(Path(item[0]).stem, item[3]) for item in fake} == {(Path(item[0]).stem, item[3]) for item in real}
    assert len({item[2] for item in fake}) > 4
    every = aria(generators=NAMES, share=False)
    every.setup()
    assert len(every.items["train"]) == 9 * len(real)
    assert [item for item in every.items["test"]] == data.items["test"]


def test_a_seed_is_found_in_names_by_a_pattern(aria: Callable[..., Aria], tmp_path: Path) -> None:
    for file in [f for f in tmp_path.rglob("*.png") if "REAL" not in f.parts]:
        file.rename(file.with_name(f"{file.stem}_made.png"))
    with pytest.raises(DataError, match=r"480 of 480 generated pictures, such as .*share no seed.*set seed_pattern"):
        aria().setup()
    data = aria(generators=NAMES, files=Files("([0-9]+)"))
    data.setup()
    split = {(i[3], Path(i[0]).stem.removesuffix("_made")): name for name, items in data.items.items() for i in items}
    assert len(data.items["test"]) == 9 * sum(name == "test" for name in split.values())
    with pytest.raises(DataError, match="does not match seed_pattern"):
        aria(files=Files("(x+)")).setup()
    with pytest.raises(DataError, match="expected a group"):
        Files("[0-9]+")
    with pytest.raises(DataError, match="expected a regular expression"):
        Files("(")


def test_what_is_served_does_not_depend_on_folder_or_label(aria: Callable[..., Aria], tmp_path: Path) -> None:
    """Real against real: the same file in every folder gives the same input, so nothing can tell them apart."""
    for file in [f for f in tmp_path.rglob("*.png") if "REAL" not in f.parts]:
        file.write_bytes((tmp_path / "REAL" / file.parent.name / file.name).read_bytes())
    for matched in (False, True):
        data = aria(matched=matched)
        data.setup()
        batches = list(data.test_dataloader())
        x, subset = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("x", "subset"))
        real = x[subset == -1]
        assert all(torch.equal(x[subset == number], real) for number in range(8))


def test_matched_pictures_are_the_centre_square(aria: Callable[..., Aria]) -> None:
    """Of a 12x4 picture whose middle is white the square has nothing else; squeezed, black stays beside it."""
    pixels = np.zeros((4, 12, 3), dtype=np.uint8)
    pixels[:, 4:8] = 255
    image = Image.fromarray(pixels)
    squeezed, square = (aria(matched=matched).transform(train=False)(image) for matched in (False, True))
    assert float(square.min()) == pytest.approx(float(square.max()), abs=0.5)
    assert float(squeezed.min()) < float(squeezed.max()) - 3


def test_training_pictures_come_in_another_order_each_epoch_and_all_of_them_once(aria: Callable[..., Aria]) -> None:
    data = aria()
    data.setup()
    expected = [item[1:] for item in data.items["train"]]
    loader = data.train_dataloader()
    served = [
        [place for b in loader for place in zip(b.y.tolist(), b.subset.tolist(), b.category.tolist(), strict=True)]
        for _ in range(2)
    ]
    assert sorted(served[0]) == sorted(served[1]) == sorted(expected)
    assert served[0] != expected


def test_a_pictures_augmentation_is_drawn_by_seed_epoch_and_place(aria: Callable[..., Aria]) -> None:
    data, other = aria(), aria(seed=1)
    pictures: list[Any] = []
    for each in (data, other):
        each.setup()
        pictures.append(each.pictures("train"))
        pictures[-1].transform = lambda image: torch.rand(())
    before = torch.get_rng_state()
    draws = [float(pictures[0][place][0]) for place in ((0, 0), (0, 1), (1, 0))] + [float(pictures[1][0, 0][0])]
    assert len(set(draws)) == 4
    assert float(pictures[0][0, 0][0]) == draws[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_stand_ins_are_of_every_source_and_category() -> None:
    """Two batches, or twice two of each generator if that is more."""
    data = Aria("nowhere", 4, TrainedOn(["dalle_t2i"]), Shown(8), generated=True)
    data.setup()
    for loader in (data.train_dataloader(), *data.val_dataloader(), data.test_dataloader()):
        batches = list(loader)
        x, y, subset, category = (torch.cat(columns) for columns in zip(*batches, strict=True))
        assert x.shape == (4 * len(NAMES), 3, 8, 8)
        assert set(zip(y.tolist(), subset.tolist(), strict=True)) == {(0, -1), *((1, n) for n in range(len(NAMES)))}
        assert subset.dtype == torch.long
        assert set(category.tolist()) == set(range(len(CATEGORIES)))


def test_headers_by_hand(tmp_path: Path) -> None:
    image = Image.new("RGB", (512, 2048), (9, 99, 199))
    image.save(tmp_path / "a.png")
    assert read_header(tmp_path / "a.png").tolist() == [0, 1, -1, 1, -2, 0]
    for quality in (30, 50, 75, 90, 95):
        image.save(tmp_path / "a.jpg", quality=quality)
        *rest, found = read_header(tmp_path / "a.jpg").tolist()
        assert rest == [1, 0, -1, 1, -2]
        assert 100 * found == pytest.approx(quality, abs=0.6)


def test_headers_of_the_same_files(aria: Callable[..., Aria], tmp_path: Path) -> None:
    pictures = aria(generators=NAMES)
    pictures.setup()
    data = Headers(str(tmp_path), 16, TrainedOn(NAMES), num_workers=0)
    data.setup()
    batches = list(data.test_dataloader())
    x, y = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("x", "y"))
    assert x.shape == (len(pictures.items["test"]), len(FIELDS)) == (len(x), *data.spec.shape)
    assert y.tolist() == [item[1] for item in pictures.items["test"]]
    assert HeaderNet()(x).shape == (len(x), 2)
    (tmp_path / data.items["test"][0][0]).write_bytes(b"no picture")
    with pytest.raises(DataError, match="is no image"):
        list(data.test_dataloader())
