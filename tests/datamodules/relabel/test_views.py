"""Whole canvases, the stand-ins of photos, and what happens to a training photo."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from datamodules.common.augment import RandomResizedCrop
from datamodules.common.torchvision_sets import CIFAR10, FashionMNIST
from datamodules.relabel.canvases import Augmentation, Canvases, Counts, draw
from datamodules.relabel.photos import BoxedCrop, CroppedImageNet, Lighting, WholeImageNet

OPTIONS: dict[str, Any] = {"batch_size": 3, "image_size": 32, "num_workers": 0, "generated": True}


def canvases(test_pairs: int = 0, **options: Any) -> Canvases:
    source = FashionMNIST(batch_size=8, train_size=200, val_size=0, test_size=60)
    counts = Counts(singles=8, pairs=24, test_singles=20, test_pairs=test_pairs)
    data = Canvases(source, **{"batch_size": 16, "counts": counts, **options})
    data.setup()
    return data


def test_canvases_are_mirrored_whole_where_nothing_is_cropped() -> None:
    plain, mirrored = (canvases(augmentation=Augmentation(mirror=share)).train_dataloader() for share in (0.0, 1.0))
    for there, other in zip(plain, mirrored, strict=True):
        assert there._fields == ("x", "y")
        assert torch.equal(there.y, other.y)
        assert torch.equal(there.x, other.x.flip(-1))
    half = torch.cat([batch.x for batch in canvases(augmentation=Augmentation(mirror=0.5)).train_dataloader()])
    whole = torch.cat([batch.x for batch in canvases(augmentation=Augmentation(mirror=0.0)).train_dataloader()])
    unchanged = (half == whole).flatten(1).all(1)
    assert 4 < int(unchanged.sum()) < 28


def test_what_a_setting_says_of_itself() -> None:
    data = canvases(test_pairs=12)
    spec = data.spec
    assert spec.shape == (1, 56, 56)
    assert spec.sizes == {"train": 32, "val": 0, "test": 20}
    assert spec.name == f"canvases of {data.source.spec.name}"
    assert spec.split.startswith(
        "8 training canvases of one item and 24 of two, items from the second half of the training images; "
        "20 test canvases of one item, 12 of two; items: "
    )
    assert canvases(test_pairs=12).spec.identity == spec.identity
    assert len({spec.identity, canvases(seed=3).spec.identity, canvases(half="first").spec.identity}) == 3


def test_crops_are_normalised_and_tell_what_they_show() -> None:
    whole = canvases(augmentation=Augmentation(RandomResizedCrop((1.0, 1.0), (1.0, 1.0)), 0.0))
    batch = next(iter(whole.train_dataloader()))
    plain = canvases(augmentation=Augmentation(mirror=0.0))
    served = next(iter(plain.train_dataloader()))
    assert torch.allclose(batch.x, served.x, atol=1e-4)
    assert torch.allclose(batch.box, torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(16, 4))
    alone = set(batch.shown.tolist()) - {-1}
    assert alone <= set(batch.y.tolist())
    shown = torch.cat([b.shown for b in whole.train_dataloader()])
    assert int((shown >= 0).sum()) == 8  # canvases of one item


def test_each_colour_is_normalised_by_its_own_mean() -> None:
    """A crop of the whole canvas is the canvas."""
    source = CIFAR10(batch_size=8, root="nowhere", train_size=40, test_size=20, generated=True)
    crops = (RandomResizedCrop((1.0, 1.0), (1.0, 1.0)), None)
    cropped, plain = (
        Canvases(source, 8, counts=Counts(pairs=8, test_singles=4), augmentation=Augmentation(crop, 0.0))
        for crop in crops
    )
    for data in (cropped, plain):
        data.setup()
    batch, served = (next(iter(data.train_dataloader())) for data in (cropped, plain))
    assert batch.x.shape == (8, 3, 64, 64)
    assert torch.allclose(batch.x, served.x, atol=1e-4)


def test_batches_are_made_on_the_trainers_device() -> None:
    """The meta device holds shapes alone: what lies there came from nowhere else."""
    elsewhere = SimpleNamespace(root_device=torch.device("meta"))
    for crop in (None, RandomResizedCrop()):
        data = canvases(test_pairs=4, augmentation=Augmentation(crop))
        data.trainer = SimpleNamespace(strategy=elsewhere, global_rank=0, world_size=1)  # type: ignore[assignment]
        columns = data._columns("pairs", valid=data.scenes["pairs"].valid)
        assert {column.device.type for column in columns.columns.values() if column is not None} == {"meta"}


def test_second_items_are_any_of_any_other_class() -> None:
    """Two images of each of three classes, often: each follows each image of another class."""
    labels = torch.tensor([4, 4, 6, 6, 9, 9])
    images = (torch.arange(6) + 1).view(-1, 1, 1, 1).to(torch.uint8)
    scenes = draw(images, labels, 0, 600, torch.Generator().manual_seed(0))
    drawn = scenes.canvas.flatten(1).gather(1, scenes.cells).int() - 1  # (N, 2): which image is where
    pairs = {tuple(pair) for pair in drawn.tolist()}
    assert pairs == {(a, b) for a in range(6) for b in range(6) if labels[a] != labels[b]}
    assert drawn[:, 0].bincount().tolist() == [100] * 6


@pytest.mark.parametrize("with_maps", [False, True])
def test_stand_ins_of_photos_have_the_real_columns(with_maps: bool) -> None:
    data = CroppedImageNet("nowhere", maps=object() if with_maps else None, map_shape=(4, 6, 5), **OPTIONS)  # type: ignore[arg-type]
    data.setup()
    batches = list(data.train_dataloader())
    assert [len(batch.x) for batch in batches] == [3, 3]
    for batch in batches:
        assert batch._fields == ("x", "y", "box", *(["map"] if with_maps else []))
        assert batch.x.shape == (3, 3, 32, 32)
        assert torch.allclose(batch.box[:, 2:] - batch.box[:, :2], torch.tensor(0.5))
        assert 0 <= float(batch.box.min()) <= float(batch.box.max()) <= 1
        if with_maps:
            assert batch.map.shape == (3, 2, 4, 6, 5)
    (test, *_) = data.test_dataloader()
    assert test._fields == ("x", "y", "valid")
    assert test.valid.shape == (3, 2)
    assert int(test.valid.max()) > 2


def test_stand_ins_of_whole_photos_are_numbered() -> None:
    data = WholeImageNet("nowhere", **OPTIONS)
    data.setup()
    batches = list(data.test_dataloader())
    assert [batch.row.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5]]
    assert batches[0].x.shape == (3, 3, 32, 32)


def test_what_happens_to_a_training_photo() -> None:
    crop = CroppedImageNet("nowhere", jitter=0.3, lighting=0.05, crop_scale=(0.2, 1.0), **OPTIONS).transform(train=True)
    assert isinstance(crop, BoxedCrop)
    assert (crop.side, crop.scale) == (32, [0.2, 1.0])
    mirror, colours, _, _, light, normalise = crop.further.transforms
    assert mirror.p == 0.5
    assert (colours.brightness, colours.contrast, colours.saturation) == ((0.7, 1.3),) * 3
    assert colours.hue is None
    assert isinstance(light, Lighting)
    assert light.std == 0.05
    assert isinstance(normalise, v2.Normalize)
    assert (list(normalise.mean), list(normalise.std)) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_crops_are_no_more_than_four_thirds_as_wide_as_high_or_as_high_as_wide() -> None:
    photo = Image.new("RGB", (900, 600))
    torch.manual_seed(0)
    crop = BoxedCrop(8, (0.1, 0.3), v2.PILToTensor())
    boxes = torch.stack([crop(photo)[1] for _ in range(100)])
    wide, high = (900 * (boxes[:, 2] - boxes[:, 0])), (600 * (boxes[:, 3] - boxes[:, 1]))
    ratio = wide / high
    assert 0.745 < float(ratio.min()) < 0.8
    assert 1.25 < float(ratio.max()) < 1.345
    area = wide * high / (900 * 600)
    assert 0.099 < float(area.min()) < 0.13
    assert 0.27 < float(area.max()) < 0.301


def test_a_white_photo_is_1_before_it_is_normalised() -> None:
    data = CroppedImageNet("nowhere", jitter=0.0, lighting=0.0, **OPTIONS)
    x, _ = data.transform(train=True)(Image.new("RGB", (60, 40), "white"))
    expected = [(1 - mean) / std for mean, std in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
    assert torch.allclose(x, torch.tensor(expected).view(3, 1, 1).expand(3, 32, 32), atol=1e-5)
