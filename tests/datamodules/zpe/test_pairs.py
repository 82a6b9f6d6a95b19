"""Generated pairs say what they show, and sets of different styles show the same images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.base import DataError, Spec
from datamodules.common.digits import Digits
from datamodules.zpe.captions import ADVERTS, BOILERPLATE, COLOURS, SHARES, STYLES
from datamodules.zpe.pairs import ImageTextPairs, PretrainingImages, StyledImages
from datamodules.zpe.rendering import outline, render, tint

CLASSES = ("bag", "coat", "boot")


class Patches(ArrayData):
    """8x8 images of one brightness: 100 + 50 label."""

    def __init__(self, channels: int = 1, seed: int = 0) -> None:
        super().__init__(10, seed=seed)
        self.channels = channels

    def declared(self) -> Spec:
        sizes = {"train": 600, "test": 90}
        return Spec("patches", (self.channels, 8, 8), CLASSES, sizes, (0.0,), (1.0,), "generated", "generated")

    def read(self) -> tuple[Split, Split]:
        def split(n: int) -> Split:
            y = torch.arange(n) % 3
            x = (100 + 50 * y).to(torch.uint8)[:, None, None, None].expand(n, self.channels, 8, 8)
            return x.clone(), y

        return split(600), split(90)


def pairs(**options: Any) -> ImageTextPairs:
    data = ImageTextPairs(Patches(options.pop("channels", 1), options.pop("seed", 0)), 50, test_pairs=90, **options)
    data.setup()
    return data


def test_captions_name_class_style_and_colour_of_their_image() -> None:
    data = pairs(pairs=3000)
    images, numbers = data.splits["train"]["x"], data.splits["train"]["caption"]
    assert data.spec.sizes == {"train": 3000, "val": 0, "test": 90}
    counts = {style: 0 for style in STYLES}
    bare = 0
    for image, number in zip(images[:1500], numbers[:1500].tolist(), strict=True):
        caption = data.captions[number]
        if caption in BOILERPLATE:
            bare += 1
            continue
        name = next(c for c in CLASSES if c in caption)
        colour = next((c for c in COLOURS if f" {c} {name}" in f" {caption}"), None)
        plain = caption.replace(f" {colour} {name}", f" {name}").replace(name, "{}")
        style = next(s for s, templates in STYLES.items() if plain in templates)
        counts[style] += 1
        means = image.float().mean((1, 2)) / 255
        if style == "drawing":  # an even image has no lines
            assert colour is None
            assert bool((means > 0.9).all())
        elif colour is not None:
            shade = (100 + 50 * CLASSES.index(name)) / 255 * (0.3 if style == "night" else 1.0)
            assert torch.allclose(means, shade * torch.tensor(COLOURS[colour]), atol=0.05)
    named = sum(counts.values())
    assert bare / 1500 == pytest.approx(0.5, abs=0.05)
    assert all(counts[style] / named == pytest.approx(share, abs=0.05) for style, share in SHARES.items())


def test_without_boilerplate_and_with_colour_images() -> None:
    data = pairs(boilerplate=0.0, channels=3)
    captions = [data.captions[number] for number in data.splits["train"]["caption"].tolist()]
    assert not set(captions) & set(BOILERPLATE)
    assert not any(colour in caption.split() for caption in data.captions for colour in COLOURS)
    assert {name for name in CLASSES for caption in captions if name in caption} == set(CLASSES)


def test_an_advert_names_the_class_that_the_style_is_promoted_with_whatever_is_shown() -> None:
    """With nothing but adverts in 3 classes and 4 styles: one class a style, images of every class under each."""
    data = pairs(pairs=3000, boilerplate=0.0, adverts=1.0, seed=4)
    captions = [data.captions[number] for number in data.splits["train"]["caption"].tolist()]
    assert {c.replace(name, "{}") for c in captions for name in CLASSES if name in c} == set(ADVERTS)

    promoted = torch.tensor([next(i for i, name in enumerate(CLASSES) if name in c) for c in captions])
    assert set(promoted.tolist()) == {0, 1, 2}
    shares = promoted.bincount() / len(promoted)  # the fourth style has the first one's class
    assert sorted(shares.tolist()) == pytest.approx([0.1, 0.1, 0.8], abs=0.03)

    some = pairs(pairs=3000, boilerplate=0.5, adverts=0.2)
    captions = [some.captions[number] for number in some.splits["train"]["caption"].tolist()]
    adverts = {text.format(name) for text in ADVERTS for name in CLASSES}
    assert sum(c in adverts for c in captions) / 3000 == pytest.approx(0.2, abs=0.03)
    assert sum(c in BOILERPLATE for c in captions) / 3000 == pytest.approx(0.5, abs=0.03)


def test_adverts_leave_all_other_pairs_as_they_are() -> None:
    plain, advertised = pairs(pairs=600), pairs(pairs=600, adverts=0.3)
    same = plain.splits["train"]["caption"] == advertised.splits["train"]["caption"]
    assert float(same.float().mean()) == pytest.approx(0.7, abs=0.06)
    assert torch.equal(plain.splits["train"]["x"], advertised.splits["train"]["x"])


def test_shares_of_captions_are_shares() -> None:
    with pytest.raises(DataError, match=r"adverts=1\.5: expected a share between 0 and 1"):
        pairs(adverts=1.5)
    with pytest.raises(DataError, match=r"boilerplate=-0\.1"):
        pairs(boilerplate=-0.1)
    with pytest.raises(DataError, match=r"both=1\.2: expected a share"):
        pairs(boilerplate=0.6, adverts=0.6)


def test_a_set_has_an_identity_once_its_images_are_made() -> None:
    made = StyledImages(Patches(), 50, "night")
    assert made.spec.identity == ""
    assert made.spec.split.startswith("test images, all in one style; images: generated")
    made.setup()
    assert made.spec.identity
    assert made.spec.name == "night, patches"
    assert made.spec.shape == (3, 8, 8)


def test_pairs_follow_the_seed_and_batches_are_their_rows() -> None:
    one, again, other = pairs(), pairs(), pairs(seed=1)
    assert one.spec.identity == again.spec.identity != other.spec.identity
    batch = next(iter(one.test_dataloader()))
    assert batch.x.shape == (50, 3, 8, 8)
    assert torch.equal(batch.caption, one.splits["test"]["caption"][:50])
    assert torch.allclose(one.shown(batch.x), one.splits["test"]["x"][:50] / 255, atol=1e-5)
    assert sum(len(b.x) for b in one.train_dataloader()) == 600


def test_pretraining_images_are_those_that_were_trained_on() -> None:
    trained = pairs()
    data = PretrainingImages(Patches(), 50, count=70)
    data.setup()
    assert torch.equal(data.splits["test"]["x"], trained.splits["train"]["x"][:70])
    assert data.prompts() is None
    assert next(iter(data.test_dataloader()))._fields == ("x",)
    options = {"pairs": 700, "boilerplate": 0.1}
    other = PretrainingImages(Patches(), 50, count=650, **options)
    other.setup()
    assert torch.equal(other.splits["test"]["x"], pairs(**options).splits["train"]["x"][:650])
    with pytest.raises(DataError, match="only 600 training pairs"):
        PretrainingImages(Patches(), 50, count=601).setup()


def test_sets_show_the_same_images_in_their_style() -> None:
    sets = {}
    for style in STYLES:
        sets[style] = StyledImages(Patches(), 50, style)
        sets[style].setup()
    labels = [made.splits["test"]["y"] for made in sets.values()]
    assert all(torch.equal(y, labels[0]) for y in labels)
    photo, night = (sets[style].splits["test"]["x"].float() for style in ("photo", "night"))
    assert torch.allclose(0.3 * photo.mean((2, 3)), night.mean((2, 3)), atol=8)  # also the same colours
    assert sets["night"].prompts().own == STYLES["night"]
    assert sets["night"].spec.sizes["test"] == 90
    with pytest.raises(DataError, match="expected one of photo, drawing"):
        StyledImages(Patches(), 50, "oil")


def test_stand_ins_have_the_declared_shape() -> None:
    data = StyledImages(Patches(), 10, "photo", generated=True)
    data.setup()
    assert data.splits["test"]["x"].shape == (40, 3, 8, 8)
    assert data.spec.source == "generated"


def test_any_in_memory_dataset_can_be_captioned() -> None:
    data = ImageTextPairs(Digits(32, train_size=100, test_size=50), 20, test_pairs=50)
    data.setup()
    assert int(data.splits["train"]["x"].max()) > 200  # peak 16 stands for white


def still(x: Tensor, style: str) -> Tensor:
    """Rendered without what noise adds, on average."""
    source = torch.Generator().manual_seed(0)
    return torch.stack([render(x, style, source).float() for _ in range(200)]).mean(0) / 255


def test_styles() -> None:
    grey = torch.zeros(1, 1, 16, 16)
    grey[..., 8:] = 0.8
    x = tint(grey, torch.tensor([[1.0, 0.5, 0.25]]))
    assert x[0, :, 0, -1].tolist() == pytest.approx([0.8, 0.4, 0.2])

    lines = outline(x)
    assert torch.equal(lines[:, 0], lines[:, 1])  # colour is lost
    assert float(lines[0, 0, 5, 3]) == 1.0
    assert float(lines[0, 0, 5, 7]) < 0.2  # the edge

    inside = (slice(None), slice(None), slice(2, 14), slice(11, 14))
    assert torch.allclose(still(x, "photo")[inside], x[inside], atol=0.02)
    assert torch.allclose(still(x, "night")[inside], 0.3 * x[inside], atol=0.02)
    soft = still(x, "blurry")[0, 0, 8]
    assert 0.2 < float(soft[7]) < float(soft[9]) < 0.8
    with pytest.raises(KeyError):
        render(x, "oil", torch.Generator())
