"""Canvases, what their crops show, and label maps that belong to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from datamodules.common.augment import RandomResizedCrop
from datamodules.common.base import DataError, Fed
from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.relabel.canvases import Augmentation, Canvases, Counts, WholeCanvases, draw, only_visible


def source(seed: int = 0, val_size: int = 0) -> FashionMNIST:
    return FashionMNIST(batch_size=8, train_size=400, val_size=val_size, test_size=100, seed=seed)


def canvases(kind: type[Canvases] = Canvases, **options: Any) -> Any:
    counts = {"pairs": 64, "test_singles": 100, **options.pop("counts", {})}
    val_size = options.pop("val_size", 0)
    data = kind(source(val_size=val_size), **{"batch_size": 32, "counts": Counts(**counts), **options})
    data.setup()
    return data


def test_canvases_show_their_items() -> None:
    """Items whose pixels are their class: each class stands in its cell, the rest is black."""
    labels = torch.arange(1, 7).repeat(5)
    images = labels.view(-1, 1, 1, 1).expand(-1, 1, 3, 3).to(torch.uint8)
    scenes = draw(images, labels, 20, 40, torch.Generator().manual_seed(0))
    assert scenes.canvas.shape == (60, 1, 6, 6)
    for canvas, valid, cells in zip(scenes.canvas, scenes.valid.tolist(), scenes.cells.tolist(), strict=True):
        expected = torch.zeros(2, 2)
        for label, cell in zip(valid, cells, strict=True):
            if label >= 0:
                expected[cell // 2, cell % 2] = label
        assert torch.equal(canvas[0, ::3, ::3].float(), expected)
    assert bool((scenes.valid[:20, 1] == -1).all())
    assert bool((scenes.valid[20:, 1] >= 1).all())
    assert bool((scenes.valid[:, 0] != scenes.valid[:, 1]).all())
    assert torch.equal(scenes.valid[:, 0].bincount(), torch.tensor([0, *[10] * 6]))  # two passes over 30 items


def test_crops_know_the_only_item_that_they_meet() -> None:
    valid, cells = torch.tensor([[3, 7]] * 5), torch.tensor([[0, 3]] * 5)  # above left, below right
    boxes = [[0.1, 0.1, 0.4, 0.4], [0.6, 0.6, 0.9, 0.9], [0.0, 0.0, 1.0, 1.0], [0.6, 0.0, 1.0, 0.4], [0, 0, 0.9, 0.5]]
    assert only_visible(torch.tensor(boxes), valid, cells).tolist() == [3, 7, -1, -1, 3]
    alone = torch.tensor([[3, -1]] * 5)
    assert only_visible(torch.tensor(boxes), alone, cells).tolist() == [3, -1, 3, -1, 3]


@pytest.mark.parametrize("cell", range(4))
def test_a_crop_at_the_corner_of_a_cell_meets_its_item(cell: int) -> None:
    x, y = cell % 2 / 2, cell // 2 / 2
    corners = torch.tensor([[x, y, x + 0.1, y + 0.1], [x + 0.4, y + 0.4, x + 0.5, y + 0.5]])
    valid, cells = torch.tensor([[5, -1]]).expand(2, 2), torch.tensor([[cell, 3 - cell]]).expand(2, 2)
    assert only_visible(corners, valid, cells).tolist() == [5, 5]
    elsewhere = torch.tensor([[3 - cell, cell]]).expand(2, 2)
    assert only_visible(corners, valid, elsewhere).tolist() == [-1, -1]


def fed(data: WholeCanvases, maps: Tensor | None = None) -> Fed:
    labels = data.scenes["train"].valid[:, 0]
    label_maps = torch.arange(len(labels) * 2.0 * 3 * 4).view(-1, 2, 3, 2, 2) if maps is None else maps
    return Fed(nn.Identity(), {"maps": label_maps.numpy(), "labels": labels.numpy()})


def test_maps_belong_to_the_canvases_that_are_cropped() -> None:
    whole = canvases(WholeCanvases)
    assert whole.spec.sizes == {"train": 0, "val": 0, "test": 64}
    rows = torch.cat([batch.row for batch in whole.test_dataloader()])
    assert torch.equal(rows, torch.arange(64))

    data = canvases(augmentation=Augmentation(RandomResizedCrop((1.0, 1.0), (1.0, 1.0)), 0.0), maps=fed(whole))
    assert data.fed is None  # it held the annotator
    seen = list(data.train_dataloader())
    assert seen[0]._fields == ("x", "y", "box", "shown", "map")
    served = torch.cat([b.x for b in whole.test_dataloader()])
    for batch in seen:
        row = (batch.map[:, 0, 0, 0, 0] / 24).long()
        assert torch.allclose(batch.x, served[row], atol=1e-4)
        assert torch.equal(batch.y, whole.scenes["train"].valid[row, 0])


def test_arms_with_and_without_maps_see_the_same_crops() -> None:
    options = {"augmentation": Augmentation(RandomResizedCrop())}
    with_maps = next(iter(canvases(maps=fed(canvases(WholeCanvases)), **options).train_dataloader()))
    without = next(iter(canvases(**options).train_dataloader()))
    assert without._fields == ("x", "y", "box", "shown")
    assert all(torch.equal(getattr(with_maps, name), getattr(without, name)) for name in without._fields)


def test_maps_of_other_images_are_refused() -> None:
    other = canvases(WholeCanvases, seed=5)
    with pytest.raises(DataError, match="made of 64 other images"):
        canvases(augmentation=Augmentation(RandomResizedCrop()), maps=fed(other))
    with pytest.raises(DataError, match="crop is missing"):
        canvases(maps=fed(other))
    with pytest.raises(DataError, match="half='third': expected one of first, second"):
        canvases(half="third")


def test_annotator_and_students_share_no_item() -> None:
    first, second = canvases(half="first"), canvases()
    items = [{image.numpy().tobytes() for image in data._items("train")[0]} for data in (first, second)]
    assert len(items[0]) + len(items[1]) == 400
    assert not items[0] & items[1]


def test_single_items_are_tested_before_pairs() -> None:
    single = canvases().test_dataloader()
    assert next(iter(single))._fields == ("x", "y")
    loaders = canvases(counts={"test_pairs": 40}).test_dataloader()
    assert [sum(len(batch.y) for batch in loader) for loader in loaders] == [100, 40]
    valid = torch.cat([batch.valid for batch in loaders[1]])
    assert bool((valid >= 0).all())
    assert canvases(counts={"test_pairs": 40}).spec.sizes["test"] == 100
    assert np.unique(canvases().scenes["test"].canvas.numpy().sum((1, 2, 3))).size > 50


def test_validation_canvases_show_the_sources_validation_images_alone() -> None:
    """Each of its images once, in an order and in cells of their own; the training and test canvases stay the same."""
    data = canvases(counts={"val_singles": 30}, val_size=30)
    batches = list(data.val_dataloader())
    assert batches[0]._fields == ("x", "y")
    images, labels = data.source.splits["val"]
    shown = data.scenes["val"].canvas.float().sum((1, 2, 3))
    assert torch.equal(shown.sort().values, images.float().sum((1, 2, 3)).sort().values)
    assert torch.equal(torch.cat([b.y for b in batches]).sort().values, labels.sort().values)
    assert data.spec.sizes == {"train": 64, "val": 30, "test": 100}

    without = canvases(val_size=30)
    assert without.val_dataloader() == []
    for name in ("train", "test"):
        assert torch.equal(without.scenes[name].canvas, data.scenes[name].canvas)


def test_validation_canvases_need_validation_images() -> None:
    with pytest.raises(DataError, match="val_singles=5: the source has no validation images"):
        canvases(counts={"val_singles": 5})
