"""Canvases of several images, and photos cut into squares."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules.common.base import DataError
from datamodules.common.composites import Composites, draw, joined
from datamodules.common.photo_patches import PhotoPatches, assemble
from datamodules.common.torchvision_sets import FashionMNIST

WNIDS = ("n01440764", "n01443537", "n01484850")  # classes 0, 1, 2


def canvases(**options: object) -> Composites:
    return Composites(FashionMNIST(50, seed=3), **{"batch_size": 40, "train_size": 200, "test_size": 100, **options})  # type: ignore[arg-type]


def test_a_canvas_shows_images_of_the_classes_it_claims() -> None:
    """Every valid class is on the canvas, in the cell it says, and the rest is background."""
    data = canvases(patches=[1, 2, 3, 4], background=7)
    data.setup()
    images, labels = data.source.splits["test"]
    layout = data.layouts["test"]
    assert data.spec.sizes == {"train": 800, "val": 0, "test": 400}
    canvas = assemble(images, layout.items, layout.cells, 7)
    assert canvas.shape == (400, *data.spec.shape)
    quarters = canvas.unfold(2, 28, 28).unfold(3, 28, 28).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)  # (N, 4, C, H, W)
    for row in range(0, 400, 37):
        shown = 1 + row // 100
        assert int((layout.items[row] >= 0).sum()) == shown
        items, cells = layout.items[row, :shown], layout.cells[row, :shown]
        assert torch.equal(layout.valid[row, :shown], labels[items])
        assert len(set(layout.valid[row, :shown].tolist())) == len(set(cells.tolist())) == shown
        assert torch.equal(quarters[row, cells], images[items])
        assert sum(bool((quarter == 7).all()) for quarter in quarters[row]) == 4 - shown


def test_the_label_is_any_of_the_classes_in_any_cell() -> None:
    layout = draw(torch.arange(10).repeat(30), 8000, 2, torch.Generator().manual_seed(0))
    assert layout.valid[:, 0].bincount().float().div(8000).sub(0.1).abs().max() < 0.015
    assert layout.cells[:, 0].bincount().float().div(8000).sub(0.25).abs().max() < 0.02
    assert layout.items.flatten().unique().numel() == 300


def test_batches_are_normalised_and_test_batches_hold_the_valid_sets() -> None:
    data = canvases()
    data.setup()
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (40, 1, 56, 56)
    assert y.shape == (40,)
    x, y, valid, skip, major = next(iter(data.test_dataloader()))
    assert torch.equal(valid[:, 0], y)
    assert not skip.any()
    assert not major.any()
    mean, std = data.spec.mean[0], data.spec.std[0]
    expected = assemble(
        data.source.splits["test"][0], data.layouts["test"].items[:40], data.layouts["test"].cells[:40], 0
    )
    assert torch.allclose(x * std + mean, expected / 255, atol=1e-6)
    assert sum(len(batch[1]) for batch in data.test_dataloader()) == data.spec.sizes["test"]


def test_training_canvases_show_no_test_image_and_follow_the_seed() -> None:
    identities = []
    for seed in (0, 0, 1):
        data = canvases(seed=seed)
        data.setup()
        identities.append(data.spec.identity)
        shown = {
            n: {bytes(i.numpy()) for i in data.source.splits[n][0][data.layouts[n].items.flatten()]}
            for n in data.layouts
        }
        assert not shown["train"] & shown["test"]
    assert identities[0] == identities[1] != identities[2]


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(DataError, match=r"patches=\[5\]: expected numbers from 1 to 4"):
        canvases(patches=[5])
    with pytest.raises(DataError, match="patches=3: the images have 2 classes"):
        draw(torch.tensor([0, 0, 4]), 5, 3, torch.Generator())


def test_joined_layouts_are_padded() -> None:
    labels, source = torch.arange(6), torch.Generator().manual_seed(0)
    layout = joined([draw(labels, 2, 1, source), draw(labels, 2, 3, source)])
    assert (layout.items[:2, 1:] == -1).all()
    assert (layout.valid[2:] >= 0).all()


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (40, 24)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def test_photo_patches_are_cut_to_squares_in_class_order(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for number, wnid in enumerate(reversed(WNIDS)):
            archive.writestr(f"photos/val/{wnid}/x.png", picture((50 * number, 0, 200)))
    data = Composites(PhotoPatches(str(tmp_path / "photos"), side=16), batch_size=5, test_size=6, patches=[2, 3])
    data.setup()
    images, labels = data.source.splits["test"]
    assert labels.tolist() == [0, 1, 2]
    assert images[:, 0, 8, 8].tolist() == [100, 50, 0]
    x, y, valid, *_ = next(iter(data.test_dataloader()))
    assert x.shape == (5, 3, 32, 32)
    assert 0 <= float(x.min()) <= float(x.max()) <= 1
    assert torch.equal(valid[:, 0], y)
    assert data.train_dataloader() == []
    assert data.spec.sizes == {"train": 0, "val": 0, "test": 12}


def test_missing_photos_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        PhotoPatches(str(tmp_path / "nowhere")).setup()
    (tmp_path / "photos" / "val" / "cats").mkdir(parents=True)
    (tmp_path / "photos" / "val" / "cats" / "x.png").write_bytes(picture((0, 0, 0)))
    with pytest.raises(DataError, match="'cats' that ImageNet does not know"):
        PhotoPatches(str(tmp_path / "photos")).setup()


def test_a_dry_run_gets_canvases_of_the_declared_shape() -> None:
    data = Composites(PhotoPatches("nowhere", side=8), 4, test_size=3, patches=[4], generated=True)
    data.setup()
    assert next(iter(data.test_dataloader()))[0].shape == (3, 3, 16, 16)
    assert data.spec.source == "generated"
