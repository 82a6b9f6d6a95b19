"""LOTA's data: test crops do not depend on how pictures are shared out; GenImage's folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.common.base import DataError, Fed
from datamodules.common.photo_regions import PhotoRegions
from datamodules.lota.bits import FrontEnd, gradient_score
from datamodules.lota.genimage import GenImage
from datamodules.lota.patches import Patches
from datamodules.lota.subsets import Selection, Subsets

FRONT = FrontEnd(patch=8, crops=6, size=None, mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.fixture
def patches() -> Callable[..., Patches]:
    def make(batch_size: int = 4, aside: float = 0.0, **options: Any) -> Patches:
        source = PhotoRegions(8, 6, 8, 8, seed=2)
        source.setup()
        pictures = torch.cat([source.splits["val"][0], source.splits["test"][0]]).numpy()
        fed = [Fed(torch.nn.Identity(), {"pictures": pictures})]
        data = Patches(source, batch_size, Subsets(["copy"], ["copy"], aside), FRONT, fed, **options)
        data.setup()
        return data

    return make


def test_test_crops_follow_from_the_row(patches: Callable[..., Patches]) -> None:
    first = torch.cat([batch.x for batch in patches(4).test_dataloader()])
    second = torch.cat([batch.x for batch in patches(16).test_dataloader()])
    assert torch.equal(first, second)


def test_pictures_are_not_stood_in_for_unless_asked(patches: Callable[..., Patches]) -> None:
    assert not patches().generated
    assert patches(generated=True).generated


def test_test_crops_follow_from_the_data_seed(patches: Callable[..., Patches]) -> None:
    data = patches()
    places = data.places("test")
    assert torch.equal(places, patches().places("test"))
    data.seed += 1
    assert not torch.equal(places, data.places("test"))


def test_training_crops_change_with_the_epoch(patches: Callable[..., Patches]) -> None:
    data = patches(16, select=Selection(train="random"))
    loader = data.train_dataloader()
    (first,) = list(loader)
    (again,) = list(loader)
    assert torch.equal(first.x, again.x)
    loader.sampler.set_epoch(1)
    (later,) = list(loader)
    assert not torch.equal(first.x, later.x)


def test_validation_and_test_pictures_are_cut_at_places_of_their_own(patches: Callable[..., Patches]) -> None:
    data = patches(16, aside=0.25)
    val, test = data.places("val"), data.places("test")
    assert not (val[:, None] == test).all(-1).any()


def test_patches_say_what_generated_them(patches: Callable[..., Patches]) -> None:
    (batch,) = list(patches(16).test_dataloader())
    assert batch.y.tolist() == [0] * 8 + [1] * 8
    assert batch.subset.tolist() == [-1] * 8 + [0] * 8


def test_selections_are_those_of_the_split(patches: Callable[..., Patches]) -> None:
    high, low = patches(16), patches(16, select=Selection(test="min"))
    scores = [gradient_score((next(iter(d.test_dataloader())).patch * 255).to(torch.uint8)) for d in (high, low)]
    assert bool((scores[0] >= scores[1]).all())
    assert high.spec.shape == (3, 8, 8)
    with pytest.raises(DataError, match="select='best'"):
        Selection(train="best")


def test_pictures_aside_are_no_training_pictures(patches: Callable[..., Patches]) -> None:
    """A picture and what was generated of it lie on the same side, and the test stays as it is."""
    data, whole = patches(64, aside=0.25), patches(64)
    assert (data.spec.sizes, whole.spec.sizes) == (
        {"train": 12, "val": 4, "test": 16},
        {"train": 16, "val": 0, "test": 16},
    )
    assert whole.val_dataloader() == []
    rows = {name: [row.tobytes() for row in data.columns[name]["x"].numpy()] for name in ("train", "val")}
    assert [len(rows[name]) for name in rows] == [12, 4]
    assert set(rows["train"]).isdisjoint(rows["val"])
    together = {row.tobytes() for row in whole.columns["train"]["x"].numpy()}
    assert set(rows["train"]) | set(rows["val"]) == together
    (loader,) = data.val_dataloader()
    (batch,), (again,) = list(loader), list(loader)
    assert batch.y.tolist() == [0, 0, 1, 1]
    assert torch.equal(batch.x, again.x)
    tests = [next(iter(some.test_dataloader())).x for some in (data, whole)]
    assert torch.equal(*tests)
    with pytest.raises(DataError, match="aside=1"):
        patches(aside=1)


@pytest.fixture
def genimage(tmp_path: Path) -> Callable[..., GenImage]:
    """Two subsets of a few pictures of different sizes; generated ones are PNG files."""
    random = np.random.default_rng(0)
    for name in ("adm", "glide"):
        for split, count in (("train", 6), ("val", 3)):
            for folder, suffix in (("ai", "png"), ("nature", "JPEG")):
                place = tmp_path / name / split / folder
                place.mkdir(parents=True)
                for number in range(count):
                    pixels = random.integers(0, 256, (12 + number, 20, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(place / f"{number}.{suffix}")

    def make(select: Selection | None = None, seed: int = 0, **options: Any) -> GenImage:
        subsets = Subsets(**{"train_on": ["adm"], "names": ("adm", "glide"), "aside": 0.02, **options})
        return GenImage(str(tmp_path), 4, subsets, FRONT, select, num_workers=0, seed=seed)

    return make


def test_folders_of_genimage(genimage: Callable[..., GenImage]) -> None:
    data = genimage(aside=0.25)
    data.setup()
    assert data.spec.sizes == {"train": 9, "val": 3, "test": 12}
    batches = list(data.test_dataloader())
    y = torch.cat([torch.as_tensor(batch.y) for batch in batches])
    subset = torch.cat([torch.as_tensor(batch.subset) for batch in batches])
    assert y.tolist() == [0] * 3 + [1] * 3 + [0] * 3 + [1] * 3  # generated is 1
    assert subset.tolist() == [0] * 6 + [1] * 6
    again = list(data.test_dataloader())
    assert all(torch.equal(a.x, b.x) for a, b in zip(batches, again, strict=True))
    assert {item[0] for item in data.items["train"]}.isdisjoint(item[0] for item in data.items["val"])
    assert batches[0].x.shape[1:] == data.spec.shape
    assert data.spec.split.endswith("; real: 6 .jpeg; generated: 6 .png")  # what may be told apart instead


@pytest.mark.parametrize("name", ["adm", "glide"])
def test_training_sees_one_generator_and_the_test_all(genimage: Callable[..., GenImage], name: str) -> None:
    """Pictures of the training folder of the one, of the test folders of both; pictures aside come from training."""
    data = genimage(train_on=[name], aside=0.25)
    data.setup()
    number = ("adm", "glide").index(name)
    for loader in (data.train_dataloader(), *data.val_dataloader()):
        assert {int(subset) for batch in loader for subset in batch.subset} == {number}
    folders = {split: {item[0].rsplit("/", 2)[0] for item in items} for split, items in data.items.items()}
    assert folders["train"] == folders["val"] == {f"{name}/train"}
    assert folders["test"] == {"adm/val", "glide/val"}
    assert {int(subset) for batch in data.test_dataloader() for subset in batch.subset} == {0, 1}


def test_pictures_aside_follow_from_the_seed(genimage: Callable[..., GenImage]) -> None:
    kept = []
    for seed in (0, 0, 1):
        data = genimage(aside=0.25, seed=seed)
        data.setup()
        kept.append(data.items)
    assert kept[0] == kept[1]
    assert kept[0]["val"] != kept[2]["val"]


def test_crops_of_genimage_change_with_the_epoch_in_training_alone(genimage: Callable[..., GenImage]) -> None:
    data = genimage(Selection("random", "random"))
    data.setup()

    def crops(loader: Any, epoch: int) -> list[bytes]:
        """In whatever order."""
        loader.sampler.set_epoch(epoch)
        return sorted(x.numpy().tobytes() for batch in loader for x in batch.x)

    train, test = data.train_dataloader(), data.test_dataloader()
    assert crops(train, 0) == crops(train, 0) != crops(train, 1)
    assert crops(test, 0) == crops(test, 1)


def test_stand_ins_of_genimage_go_through_the_front_end() -> None:
    """Two batches, or twice two of each subset if that is more."""
    for batch_size, count in ((40, 80), (4, 32)):
        data = GenImage("nowhere", batch_size, Subsets(["adm"]), FRONT, generated=True)
        data.setup()
        batches = list(data.test_dataloader())
        assert sum(len(batch.x) for batch in batches) == count
        first = batches[0]
        assert first.x.shape[1:] == first.patch.shape[1:] == data.spec.shape == (3, 8, 8)
        assert set(first.patch.unique().tolist()) <= {0.0, 1.0}
        y, subset = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("y", "subset"))
        assert set(y.tolist()) == {0, 1}
        assert set(subset.tolist()) == set(range(8))


def test_genimage_selects_patches_as_the_split_says(genimage: Callable[..., GenImage]) -> None:
    """Trained on the smallest gradients and tested on the largest, and the other way round, over the same crops."""

    def scores(loader: Any) -> torch.Tensor:
        return torch.cat([gradient_score((torch.as_tensor(batch.patch) * 255).to(torch.uint8)) for batch in loader])

    low, high = genimage(Selection("min", "max")), genimage(Selection("max", "min"))
    low.setup()
    high.setup()
    assert float(scores(low.train_dataloader()).double().mean()) < float(
        scores(high.train_dataloader()).double().mean()
    )
    tested = scores(low.test_dataloader()), scores(high.test_dataloader())
    assert bool((tested[0] >= tested[1]).all())
    assert not torch.equal(*tested)


def test_what_is_missing_is_named(genimage: Callable[..., GenImage], tmp_path: Path) -> None:
    assert "no biggan/train/ai" not in genimage().available()
    data = genimage(names=("adm", "glide", "vqdm"))
    with pytest.raises(DataError, match="has no vqdm/val/nature"):
        data.setup()
    with pytest.raises(DataError, match="train_on: 'dalle'"):
        genimage(train_on=["dalle"])
    with pytest.raises(DataError, match="aside=1"):
        genimage(aside=1)
    (tmp_path / "glide" / "val" / "ai" / "0.png").write_bytes(b"no picture")
    broken = genimage()
    broken.setup()
    with pytest.raises(DataError, match=r"0\.png cannot be decoded"):
        list(broken.test_dataloader())
