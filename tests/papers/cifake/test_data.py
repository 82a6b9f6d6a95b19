"""Scenes, what detectors are shown of them, and CIFAKE's folders."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.cifake.folders import CIFAKE
from datamodules.cifake.pictures import RealOrFakeScenes, SwappedScenes, add_noise
from datamodules.cifake.scenes import Objects, Scenes, compose, cut_out, draw_fields, draw_places
from datamodules.common.base import DataError, Fed, generator
from datamodules.common.generated_pictures import GeneratorSets, recompress
from datamodules.common.torchvision_sets import FashionMNIST


def make_scenes(seed: int = 3, **options: Any) -> Scenes:
    source = FashionMNIST(
        root="nowhere", batch_size=8, subset="embedded", train_size=20, val_size=24, test_size=12, seed=seed
    )
    return Scenes(source, 8, **{"choice_size": 8, **options})


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    made = make_scenes()
    made.setup()
    return made


def darker(scenes: Scenes) -> list[Fed]:
    """A generator whose pictures are the real ones at half their brightness."""
    pictures = torch.cat([scenes.splits["val"][0], scenes.splits["test"][0]]) // 2
    return [Fed(torch.nn.Identity(), {"pictures": pictures.numpy()})]


def test_an_object_and_its_other_place_are_of_one_shape_and_apart(scenes: Scenes) -> None:
    for name, masks in scenes.masks.items():
        assert masks.shape == (2, len(scenes.splits[name][0]), 32, 32)
        assert not bool((masks[0] & masks[1]).any())
        for first, second in masks.transpose(0, 1):
            a, b = (part.nonzero() for part in (first, second))
            assert len(a) > 10
            assert torch.equal(a - a.amin(0), b - b.amin(0))


def test_either_place_is_as_likely() -> None:
    boxes = torch.tensor([[3, 2, 17, 12]]).repeat(4000, 1)
    first, second = draw_places(boxes, 32, generator("places"))
    assert bool((((first - second).abs() >= torch.tensor([14, 10])).any(1)).all())
    assert bool((torch.stack([first, second]) + torch.tensor([14, 10]) <= 32).all())
    assert torch.allclose(first.float().mean(0), second.float().mean(0), atol=0.4)
    first, second = draw_places(torch.tensor([[0, 0, 16, 16]]).repeat(20, 1), 32, generator("places"))
    assert bool((first - second).abs().eq(16).any(1).all())  # half the picture: side by side, and never closer
    with pytest.raises(DataError, match="an object of 17 pixels: expected at most half the picture's 32"):
        draw_places(torch.tensor([[0, 0, 17, 4]]), 32, generator("places"))


def test_only_the_objects_pixels_change() -> None:
    source = generator("composition")
    images = torch.zeros(5, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 6:22, 8:20] = torch.randint(60, 255, (5, 1, 16, 12), generator=source, dtype=torch.uint8)
    background = torch.randint(256, (5, 3, 32, 32), generator=source, dtype=torch.uint8)
    objects = cut_out(images, 14, source)
    pictures, masks = compose(background, objects, 0.5, source)
    changed = (pictures != background).any(1)
    assert bool(changed.any())
    assert not bool((changed & masks[1]).any())
    inside = masks[0].float().mean((1, 2)) * 32**2
    assert torch.allclose(inside, torch.full((5,), 8.0 * 6), atol=8 + 6 + 8 + 6)
    flat, _ = compose(background, objects, 0.0, generator("other"))
    for row in range(5):  # without contrast it is an even patch
        even = flat[row][:, (flat[row] != background[row]).any(0)].float()
        assert float(even.std(1).max()) < float(background[row].float().std())


def test_an_objects_colours_are_clipped_before_they_are_mixed_with_the_photo() -> None:
    """On 200, an object of -20 and 20 about its mean, ten times as strong: 0 and 255, of which its edge is half."""
    background = torch.full((1, 3, 8, 8), 200, dtype=torch.uint8)
    colour = torch.tensor([[100.0, 140.0], [100.0, 140.0]]).expand(1, 3, 2, 2)
    cover = torch.tensor([[1.0, 1.0], [0.5, 0.5]]).expand(1, 2, 2)
    pictures, masks = compose(
        background, Objects(colour, cover, torch.tensor([[0, 0, 2, 2]])), 10.0, generator("places")
    )
    ((top, left), *_) = masks[0, 0].nonzero().tolist()
    assert pictures[0, 0, top : top + 2, left : left + 2].tolist() == [[0, 255], [100, 228]]
    assert masks.sum((2, 3)).tolist() == [[2], [2]]


def test_fields_have_the_spectrum_of_photos_and_differ() -> None:
    fields = draw_fields(300, 32, generator("fields"))
    assert fields.shape == (300, 3, 32, 32)
    assert len({field.numpy().tobytes() for field in fields}) == 300
    grey = fields.float().mean(1)
    power = torch.fft.fft2(grey - grey.mean((1, 2), keepdim=True)).abs().square().mean(0)  # (32, 32)
    along = [float(power[0, k] + power[k, 0]) for k in (2, 4, 8)]
    assert 4.5 < along[0] / along[1] < 9  # an exponent of 1.4 in amplitude: 7 an octave
    assert 4.5 < along[1] / along[2] < 9
    spread = grey.flatten(1).std(1)  # of each field 15 to 55, but for its colours
    assert 13 < float(spread.min()) < 18
    assert 52 < float(spread.max()) < 60
    assert torch.equal(draw_fields(300, 32, generator("fields")), fields)
    with pytest.raises(DataError, match="background='sky': expected one of photos, fields"):
        make_scenes(background="sky")


def test_scenes_on_fields_have_parts_of_their_own() -> None:
    made = make_scenes(background="fields")
    made.setup()
    rows = [image.numpy().tobytes() for images, _ in made.splits.values() for image in images]
    assert len(set(rows)) == len(rows) == 56
    assert "fields" in made.spec.name


def test_an_object_that_is_not_visible_covers_its_square() -> None:
    objects = cut_out(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), 14, generator("black"))
    assert objects.boxes.tolist() == [[0, 0, 14, 14]]


def test_parts_are_disjoint_and_the_generator_is_tested_on_what_detectors_see(scenes: Scenes) -> None:
    data = GeneratorSets(scenes, 8)
    data.setup()
    tested = torch.cat([batch.x for batch in data.test_dataloader()])
    shown = torch.cat([scenes.splits["val"][0], scenes.splits["test"][0]]).float() / 127.5 - 1
    assert torch.allclose(tested, shown, atol=1e-6)
    rows = [image.numpy().tobytes() for images, _ in scenes.splits.values() for image in images]
    assert len(set(rows)) == len(rows) == 56
    assert {name: len(images) for name, (images, _) in scenes.splits.items()} == dict(scenes.spec.sizes)


def test_real_and_generated_pictures_end_alike(scenes: Scenes) -> None:
    data = RealOrFakeScenes(scenes, 8, darker(scenes), jpeg=75)
    data.setup()
    real, _ = scenes.splits["test"]
    assert torch.equal(data.columns["test"]["x"], torch.cat([recompress(real, 75), recompress(real // 2, 75)]))
    assert data.columns["test"]["y"].tolist() == 12 * [0] + 12 * [1]
    assert {name: len(c["y"]) for name, c in data.columns.items()} == {"train": 32, "val": 16, "test": 24}
    assert dict(data.spec.sizes) == {"train": 32, "val": 16, "test": 24}
    seen = data.columns["train"]["x"][:16]
    assert torch.equal(seen, recompress(scenes.splits["val"][0][:16], 75))
    batch = next(iter(data.test_dataloader()))
    assert batch._fields == ("x", "y", "subset", "category", "mask")
    assert float(batch.x.min()) >= 0
    assert float(batch.x.max()) <= 1
    assert next(iter(data.train_dataloader()))._fields == ("x", "y", "subset", "category")


def test_noise_has_its_deviation_and_is_drawn_for_each_value() -> None:
    grey = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
    noise = add_noise(grey, 8, generator("noise")).float() - 128
    assert float(noise.mean()) == pytest.approx(0, abs=0.1)
    assert float(noise.std()) == pytest.approx((64 + 1 / 12) ** 0.5, rel=0.02)  # rounding adds 1/12
    pairs = torch.stack([noise[:, 0].flatten(), noise[:, 1].flatten(), noise[:, 0].roll(1, 2).flatten()])
    assert float((torch.corrcoef(pairs) - torch.eye(3)).abs().max()) < 0.02
    assert torch.equal(add_noise(grey, 0, generator("noise")), grey)
    ends = add_noise(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 32, 32), 8, generator("noise"))
    assert bool((ends[0] <= 60).all())
    assert bool((ends[1] >= 195).all())


def test_real_and_generated_pictures_have_noise_of_their_own_before_their_files(scenes: Scenes) -> None:
    same = [Fed(torch.nn.Identity(), {"pictures": torch.cat([scenes.splits[s][0] for s in ("val", "test")]).numpy()})]
    plain, noisy, again = (RealOrFakeScenes(scenes, 8, same, noise=noise) for noise in (0, 8, 8))
    for data in (plain, noisy, again):
        data.setup()
    assert noisy.spec.identity == again.spec.identity != plain.spec.identity
    for name, columns in noisy.columns.items():
        there = plain.columns[name]["x"]
        assert torch.equal(there, torch.cat([there[: len(there) // 2]] * 2))  # a generator that copies
        real, fake = (columns["x"].float() - there.float()).chunk(2)
        inside = ((there > 40) & (there < 215)).chunk(2)[0]
        for noise in (real, fake):
            assert float(noise[inside].std()) == pytest.approx(8, rel=0.03)
        both = torch.stack([real[inside], fake[inside]])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.05
    assert "noise of 8 grey levels on every picture" in noisy.spec.split
    files = RealOrFakeScenes(scenes, 8, same, noise=8, jpeg=75)
    files.setup()
    assert torch.equal(files.columns["test"]["x"], recompress(noisy.columns["test"]["x"], 75))
    with pytest.raises(DataError, match="noise=-1: expected 0 or more grey levels"):
        RealOrFakeScenes(scenes, 8, same, noise=-1)


def test_all_versions_of_a_swapped_picture_have_one_noise(scenes: Scenes) -> None:
    plain, noisy = (SwappedScenes(scenes, 5, darker(scenes), noise=noise) for noise in (0, 2))
    for data in (plain, noisy):
        data.setup()
    inside = plain.columns["test"]["x"].gt(12) & plain.columns["test"]["real"].lt(243)
    added = {
        name: (noisy.columns["test"][name].float() - plain.columns["test"][name].float())[inside]
        for name in ("x", "object", "background", "real")
    }
    assert float(added["x"].std()) == pytest.approx(2, rel=0.05)
    for name in ("object", "background", "real"):
        assert torch.equal(added[name], added["x"])


def test_reencoded_pictures_are_halves_of_the_real_ones(scenes: Scenes) -> None:
    data = RealOrFakeScenes(scenes, 8, darker(scenes), jpeg=75, fakes="reencoded")
    data.setup()
    columns = data.columns["test"]
    assert columns["y"].tolist() == 6 * [0] + 6 * [1]
    there = {image.numpy().tobytes() for image in recompress(scenes.splits["test"][0], 75)}
    assert {image.numpy().tobytes() for image in columns["x"]} == there  # all of them, once, with one history
    assert dict(data.spec.sizes) == {"train": 16, "val": 8, "test": 12}
    with pytest.raises(DataError, match="fakes='drawn': expected one of generated, reencoded"):
        RealOrFakeScenes(scenes, 8, darker(scenes), fakes="drawn")


def test_shuffled_labels_are_those_of_training_alone(scenes: Scenes) -> None:
    plain, shuffled = (RealOrFakeScenes(scenes, 8, darker(scenes), shuffled=s) for s in (False, True))
    for data in (plain, shuffled):
        data.setup()
    assert torch.equal(plain.columns["train"]["x"], shuffled.columns["train"]["x"])
    assert not torch.equal(plain.columns["train"]["y"], shuffled.columns["train"]["y"])
    assert int(shuffled.columns["train"]["y"].sum()) == 16
    for name in ("val", "test"):
        assert torch.equal(plain.columns[name]["y"], shuffled.columns[name]["y"])


def test_swapped_pictures_differ_in_their_region_alone(scenes: Scenes) -> None:
    data = SwappedScenes(scenes, 5, darker(scenes))
    data.setup()
    real, _ = scenes.splits["test"]
    fake = real // 2
    (columns,) = (data.columns["test"],)
    for name, region in (("object", columns["mask"]), ("background", columns["place"])):
        inside = region[:, None].expand_as(real)
        assert torch.equal(columns[name][inside], real[inside])
        assert torch.equal(columns[name][~inside], fake[~inside])
    batches = list(data.test_dataloader())
    assert torch.equal(torch.cat([b.x for b in batches]), fake.float() / 255)
    assert data.spec.sizes["test"] == 12


def test_the_same_pictures_for_the_same_seed(scenes: Scenes) -> None:
    again, other = make_scenes(), make_scenes(4)
    for made in (again, other):
        made.setup()
    assert again.spec.identity == scenes.spec.identity != other.spec.identity
    with pytest.raises(DataError, match="choice_size=24: expected from 1 to below the 24 of val"):
        make_scenes(choice_size=24)


@pytest.fixture
def cifake(tmp_path: Path) -> Callable[..., CIFAKE]:
    """A folder of few pictures; generated ones are darker."""
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 4)):
        for folder, top in (("REAL", 255), ("FAKE", 60)):
            place = tmp_path / "cifake" / split / folder
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(top // 2, top, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number:04d}.jpg")

    def make(**options: Any) -> CIFAKE:
        data = CIFAKE(str(tmp_path / "cifake"), 4, **{"val_size": 4, **options})
        data.setup()
        return data

    return make


def test_folders_and_zips_are_read_with_generated_pictures_as_1(cifake: Callable[..., CIFAKE], tmp_path: Path) -> None:
    data = cifake()
    assert dict(data.spec.sizes) == {"train": 16, "val": 4, "test": 8}
    assert (data.spec.shape, data.spec.mean, data.spec.std) == ((3, 32, 32), (0.0,) * 3, (1.0,) * 3)
    for images, labels in data.splits.values():
        assert images.dtype == torch.uint8
        assert torch.equal(images.float().mean((1, 2, 3)) < 90, labels == 1)
    batch = next(iter(data.test_dataloader()))
    assert 0 <= float(batch.x.min()) < float(batch.x.max()) <= 1

    with zipfile.ZipFile(tmp_path / "zipped.zip", "w") as archive:
        for file in (tmp_path / "cifake").rglob("*.jpg"):
            archive.write(file, file.relative_to(tmp_path / "cifake"))
    zipped = CIFAKE(str(tmp_path / "zipped.zip"), 4, val_size=4)
    zipped.setup()
    assert zipped.spec.identity == data.spec.identity


def test_options_of_the_folders(cifake: Callable[..., CIFAKE]) -> None:
    plain, shuffled, encoded = cifake(), cifake(shuffled=True), cifake(jpeg=75)
    assert not torch.equal(plain.splits["train"][1], shuffled.splits["train"][1])
    assert torch.equal(plain.splits["test"][1], shuffled.splits["test"][1])
    assert shuffled.spec.split == f"{plain.spec.split}; training labels shuffled"
    assert torch.equal(encoded.splits["test"][0], recompress(plain.splits["test"][0], 75))


def test_what_is_missing_or_of_another_size_is_named(cifake: Callable[..., CIFAKE], tmp_path: Path) -> None:
    absent = CIFAKE(str(tmp_path / "nothing"), 4)
    assert "kaggle.com/datasets/birdy654" in absent.available()
    with pytest.raises(DataError, match="does not exist"):
        absent.setup()
    assert dict(absent.spec.sizes) == {"train": 100_000, "val": 0, "test": 20_000}

    place = tmp_path / "cifake" / "test" / "FAKE"
    stored = io.BytesIO()
    Image.new("RGB", (16, 8)).save(stored, "JPEG")
    (place / "0001.jpg").write_bytes(stored.getvalue())
    with pytest.raises(DataError, match=r"FAKE/0001.jpg has 16x8 pixels: expected 32x32"):
        cifake()
    (place / "0001.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"FAKE/0001.jpg cannot be decoded"):
        cifake()
    for file in place.iterdir():
        file.unlink()
    with pytest.raises(DataError, match="no pictures in test/FAKE"):
        cifake()
