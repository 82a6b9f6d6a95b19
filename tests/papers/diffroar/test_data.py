"""Blocks, vectors, photos in groups, house numbers and augmentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from scipy.stats import chi2_contingency

from datamodules.common.base import DataError, Share
from datamodules.common.digits import Digits
from datamodules.diffroar.augment import Jitter, Rotation
from datamodules.diffroar.blocks import Blocks, null_patch
from datamodules.diffroar.imagenet10 import GROUPS, ImageNet10
from datamodules.diffroar.signals import Signals
from datamodules.diffroar.svhn import SVHN
from datamodules.diffroar.unit import UnitPixels, place
from datamodules.diffroar.unmasked import Everything, Unmasked, fixed_images


def test_the_constant_patch_is_an_outlined_square_with_diagonals() -> None:
    patch = null_patch(28)
    assert torch.equal(patch, patch.flip(0))
    assert torch.equal(patch, patch.T)
    assert set(patch.unique().tolist()) == {0, 255}
    inside = patch[4:24, 4:24]
    assert int(patch.sum()) == int(inside.sum())
    assert bool((inside[:2] == 255).all())
    assert bool((inside.diagonal() == 255).all())
    assert bool((inside[3:6, 9:11] == 0).all())


PATCH = """
..............
..............
..##########..
..##########..
..####..####..
..##########..
..##.####.##..
..##.####.##..
..##########..
..####..####..
..##########..
..##########..
..............
..............
"""


def test_the_patch_of_14_pixels_as_it_is_drawn() -> None:
    """A margin of two, an outline of two, and either diagonal with its neighbours."""
    drawn = "\n".join("".join(".#"[value > 0] for value in row) for row in null_patch(14).tolist())
    assert drawn == PATCH.strip()


def test_blocks_are_a_signal_and_the_same_patch_in_fair_order(images: Callable[..., Any]) -> None:
    data = Blocks(images(4000, 400), 100)
    data.setup()
    x, y = data.splits["train"]
    signal = data.signal["train"]
    assert x[0].numel() == 1568
    assert 47 < 100 * float((signal == 0).float().mean()) < 53
    assert chi2_contingency(np.histogram2d(y.numpy(), signal.numpy(), (10, 2))[0]).pvalue > 0.001

    halves = x.view(-1, 2, 28, 28)
    rows = torch.arange(len(x))
    nulls = halves[rows, 1 - signal]
    assert torch.equal(nulls, null_patch(28).expand_as(nulls))
    assert torch.equal(halves[rows, signal], data.source.splits["train"][0][:, 0])
    batch = next(iter(data.test_dataloader()))
    assert batch.x.shape == (100, 1, 56, 28)
    assert torch.equal(batch.signal, data.signal["test"][:100])
    assert float(batch.x.max()) == 1


def test_each_split_tosses_coins_of_its_own_and_stand_ins_are_called_so(images: Callable[..., Any]) -> None:
    data = Blocks(images(400, 400), 100)
    data.setup()
    same = (data.signal["train"] == data.signal["test"]).float().mean()
    assert float(same) == pytest.approx(0.5, abs=0.1)

    standing_in = Blocks(images(), 8, generated=True)
    standing_in.setup()
    assert standing_in.spec.source == "generated"
    assert data.spec.source != "generated"


def test_stand_ins_are_four_batches_at_most_and_others_in_the_test(images: Callable[..., Any]) -> None:
    data = Everything(images(40, 20), 8, generated=True)
    data.setup()
    (train, _), (test, _) = data.images["train"], data.images["test"]
    assert (len(train), len(test)) == (32, 20)
    assert not torch.equal(train[:20], test)


def test_images_whose_white_is_16_are_served_between_0_and_1() -> None:
    """Digits are written in 17 shades; both ways of serving them divide by their own peak."""
    digits = Digits(8, train_size=30, test_size=20)
    everything = Everything(digits, 50)
    unmasked = Unmasked(digits, 20, 100, kind="random")
    for data in (everything, unmasked):
        data.setup()
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (digits.spec.mean, digits.spec.std))
    expected = digits.splits["test"][0] / 16
    assert float(expected.max()) == 1
    shown = next(iter(everything.test_dataloader())).x[30:] * std + mean
    kept = next(iter(unmasked.test_dataloader())).top * std + mean
    assert torch.allclose(shown, expected, atol=1e-6)
    assert torch.allclose(kept, expected, atol=1e-6)


def test_blocks_on_top(images: Callable[..., Any]) -> None:
    data = Blocks(images(), 10, position="top")
    data.setup()
    assert not data.signal["test"].any()
    assert torch.equal(data.splits["test"][0][:, :, :28], data.source.splits["test"][0])


def test_what_is_no_grey_square_or_no_position_is_refused(images: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="position='left': expected one of random, top"):
        Blocks(images(), 8, position="left")
    with pytest.raises(DataError, match="expected grey squares"):
        Blocks(SVHN(8), 8)


def test_unit_pixels_are_the_sources_without_mean_and_std(images: Callable[..., Any]) -> None:
    data = UnitPixels(images(), 20)
    data.setup()
    batch = next(iter(data.test_dataloader()))
    assert torch.equal(batch.x, data.source.splits["test"][0] / 255)
    assert torch.equal(batch.y, data.source.splits["test"][1])
    everything = Everything(UnitPixels(images(), 20), 60)
    everything.setup()
    assert torch.equal(next(iter(everything.test_dataloader())).x[40:], batch.x)


def test_an_image_stands_where_its_corner_is() -> None:
    """Two images of 1 x 2 pixels on squares of 3, in their upper right and in their lower left corner."""
    images = torch.tensor([[[[1, 2]]], [[[3, 4]]]], dtype=torch.uint8)
    squares = place(images, 3, torch.tensor([[0, 1], [2, 0]]))
    assert squares[:, 0].tolist() == [[[0, 1, 2], [0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 0], [3, 4, 0]]]
    colours = torch.arange(24, dtype=torch.uint8).view(2, 3, 2, 2) + 1
    assert torch.equal(place(colours, 4, torch.tensor([[2, 1], [0, 0]]))[0, :, 2:, 1:3], colours[0])


def test_garments_stand_anywhere_and_the_same_for_all_stages(images: Callable[..., Any]) -> None:
    """Corners of 40 - 28 + 1 = 13 places each way, all of them met; another seed has others."""
    data = UnitPixels(images(1000, 20), 20, side=40)
    data.setup()
    squares, labels = data.splits["train"]
    whole = data.source.splits["train"][0]
    assert data.spec.shape == (1, 40, 40)
    assert torch.equal(squares.flatten(1).sum(1), whole.flatten(1).sum(1))
    assert torch.equal(labels, data.source.splits["train"][1])

    # An article touches its upper edge: the first row that is not black is the corner's.
    touching = whole[:, 0, 0].bool().any(1)
    rows = squares[touching, 0].bool().any(2).int().argmax(1)
    assert set(rows.tolist()) == set(range(13))

    everything = Everything(UnitPixels(images(1000, 20), 20, side=40), 1020)
    everything.setup()
    assert torch.equal(next(iter(everything.test_dataloader())).x[:1000], squares / 255)
    other = UnitPixels(images(1000, 20, seed=4), 20, side=40)
    other.setup()
    assert data.spec.identity != other.spec.identity

    small = UnitPixels(images(), 20, side=28)
    small.setup()
    assert torch.equal(small.splits["test"][0], small.source.splits["test"][0])
    with pytest.raises(DataError, match="side=27: Fashion-MNIST"):
        UnitPixels(images(), 20, side=27)


def test_vectors_hold_the_class_in_one_block() -> None:
    data = Signals(100, blocks=10, length=3, relevant=5, noise=0.005, train_size=5000)
    data.setup()
    x, y, signal = (data.columns["train"][name] for name in ("x", "y", "signal"))
    blocks = x.view(-1, 10, 3)
    own = blocks[torch.arange(len(x)), signal]
    u = torch.full((3,), 3**-0.5)
    assert torch.allclose(own @ u, 2.0 * y - 1, atol=0.03)
    assert int(signal.max()) == 4
    assert bool(((torch.bincount(signal) - 1000).abs() < 120).all())
    noise = blocks[:, 5:].flatten(1)
    assert float(noise.square().sum(1).mean() / 5) == pytest.approx(0.005**2, rel=0.05)


def test_vectors_of_the_notebook_are_signed_unit_vectors() -> None:
    data = Signals(100)
    data.setup()
    batch = next(iter(data.test_dataloader()))
    expected = torch.zeros(100, 10).scatter_(1, batch.signal[:, None], 2.0 * batch.y[:, None] - 1)
    assert torch.equal(batch.x.flatten(1), expected)
    assert (data.spec.sizes["train"], data.spec.sizes["test"]) == (10_000, 1_000)
    assert (data.spec.mean, data.spec.std, data.spec.shape) == ((0.0,), (1.0,), (1, 1, 10))
    assert data.spec.source == data.spec.where == "generated"
    assert not torch.equal(data.columns["train"]["y"][:1000], data.columns["test"]["y"])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"relevant": 11}, "relevant=11: expected 1 to 10"), ({"noise": -1}, "noise=-1"), ({"length": 0}, "length=0")],
)
def test_wrong_vectors_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Signals(8, **options)


def test_groups_are_ten_times_six_classes_of_their_kind() -> None:
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    numbers = [number for group in GROUPS.values() for number in group]
    assert len(numbers) == len(set(numbers)) == 60
    assert all(len(group) == 6 for group in GROUPS.values())
    told = {group: [info.index_to_description(n) for n in numbers] for group, numbers in GROUPS.items()}
    for group, words in {
        "bird": ("cock", "hen", "ostrich", "brambling", "goldfinch", "house finch"),
        "feline": ("cougar", "lynx", "leopard", "snow leopard", "jaguar", "lion"),
        "truck": ("fire engine", "garbage truck", "moving van", "pickup", "police van", "tow truck"),
        "boat": ("canoe", "fireboat", "gondola", "lifeboat", "speedboat", "yawl"),
        "fungus": ("coral fungus", "agaric", "gyromitra", "stinkhorn", "earthstar", "hen-of-the-woods"),
        "fruit": ("rapeseed", "corn", "acorn", "hip", "buckeye", "ear"),
        "monkey": ("guenon", "patas", "baboon", "macaque", "langur", "colobus"),
        "car": ("ambulance", "beach wagon", "cab", "convertible", "jeep", "limousine"),
        "insect": ("tiger beetle", "ladybug", "ground beetle", "long-horned beetle", "leaf beetle", "dung beetle"),
        "dog": ("Chihuahua", "Japanese spaniel", "Maltese", "Pekinese", "Shih-Tzu", "Blenheim spaniel"),
    }.items():
        assert all(word.lower() in text.lower() for word, text in zip(words, told[group], strict=True)), told[group]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two training photos and one test photo of each of the 60 classes, and a class that is none of them."""
    rng = np.random.default_rng(0)
    for wnid in [*ImageNet10.labels(), "n01440764"]:
        for split, count in (("train", 2), ("val", 1)):
            folder = tmp_path / split / wnid
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{wnid}_{number}.JPEG")
    return tmp_path


def test_photos_in_groups(photos: Path) -> None:
    data = ImageNet10(str(photos), 10, image_size=28, resize=32, num_workers=0)
    data.setup()
    assert data.spec.classes == tuple(GROUPS)
    assert data.spec.sizes == {"train": 120, "test": 60}
    assert torch.bincount(torch.tensor([label for _, label in data.items["test"]])).tolist() == [6] * 10
    kinds = [type(step).__name__ for step in data.transform(train=True).transforms]
    assert kinds[:4] == ["Resize", "RandomResizedCrop", "RandomHorizontalFlip", "ColorJitter"]
    jitter = data.transform(train=True).transforms[3]
    assert jitter.brightness == jitter.contrast == jitter.saturation == (0.9, 1.1)
    assert next(iter(data.train_dataloader())).x.shape == (10, 3, 28, 28)

    everything = Everything(data, 60)
    everything.setup()
    pixels, labels = fixed_images(data, "test")
    seen = list(everything.test_dataloader())
    assert len(seen) == 3
    tested = torch.cat([batch.x for batch in data.test_dataloader()])
    assert torch.allclose(seen[2].x, tested, atol=1e-5)
    assert torch.equal(seen[2].y, labels)
    assert pixels.dtype == torch.uint8


def test_a_missing_class_is_named(photos: Path) -> None:
    wnid = next(iter(ImageNet10.labels()))
    (photos / "val" / wnid).rename(photos / "elsewhere")
    with pytest.raises(DataError, match=f"val has no folder {wnid}"):
        ImageNet10(str(photos), 10, num_workers=0).setup()


def test_house_numbers_are_read_as_they_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stored as (32, 32, 3, N) with label 10 for the digit 0."""
    from torchvision import datasets

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 32, 3, 12), dtype=np.uint8)
    for split in ("train", "test"):
        savemat(
            tmp_path / f"{split}_32x32.mat",
            {"X": pixels, "y": np.arange(1, 13)[:, None] % 11 + (np.arange(1, 13)[:, None] == 11)},
        )
    monkeypatch.setattr(datasets.SVHN, "_check_integrity", lambda self: True)
    data = SVHN(4, str(tmp_path))
    (images, labels), _ = data.read()
    assert images.shape == (12, 3, 32, 32)
    assert torch.equal(images[5], torch.from_numpy(pixels[..., 5]).permute(2, 0, 1))
    assert labels[:10].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]


def draws(count: int) -> Any:
    return Share(torch.arange(count), count, 0, 7).generator()


def test_jitter_and_rotation() -> None:
    x = torch.rand(8, 3, 12, 12)
    assert torch.allclose(Jitter(0.0)(x, draws(8)), x, atol=1e-5)
    assert torch.allclose(Rotation(0.0)(x, draws(8)), x, atol=1e-5)
    jittered = Jitter(0.25)(x, draws(8))
    assert not torch.allclose(jittered, x, atol=0.02)
    assert float(jittered.min()) >= 0
    assert float(jittered.max()) <= 1

    class Quarter:
        def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
            return torch.full((8, *shape), high)

    turned = Rotation(90.0)(x, Quarter())  # type: ignore[arg-type]
    assert torch.allclose(turned, x.rot90(1, (2, 3)), atol=1e-4) or torch.allclose(
        turned, x.rot90(-1, (2, 3)), atol=1e-4
    )
