"""Test sets that show the same objects and differ in label counts, sharpness or missing labels."""

from __future__ import annotations

import pytest
import torch

from datamodules.common.base import DataError
from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.reassess_imagenet.canvases import CanvasSet, CountedCanvases, averaged, objects_of

V1, V2 = [39394, 5408, 1319, 716], [5083, 2385, 1306, 1097]


def canvases(seed: int = 3, **sets: CanvasSet) -> CountedCanvases:
    named = sets or {"v1": CanvasSet(V1), "v2": CanvasSet(V2)}
    data = CountedCanvases(FashionMNIST(50, seed=seed), 40, V1, named, train_size=200, test_size=400)
    data.setup()
    return data


def test_as_many_objects_as_the_counts_say() -> None:
    assert objects_of([1, 1, 0, 2], 8).tolist() == [1, 1, 2, 2, 4, 4, 4, 4]
    for counts in (V1, V2):
        shares = objects_of(counts, 10_000).bincount(minlength=5)[1:] / 10_000
        assert torch.allclose(shares.double(), torch.tensor(counts).double() / sum(counts), atol=1e-4)


def test_sets_show_the_same_objects_and_one_of_them_large() -> None:
    data = canvases()
    images, labels = data.source.splits["test"]
    first, second = data.served["v1"], data.served["v2"]
    shown = [(layout.valid >= 0).sum(1) for layout in (first, second)]
    assert bool((shown[0] <= shown[1]).all())
    for layout, counts in zip((first, second), shown, strict=True):
        there = torch.arange(4) < counts[:, None]
        assert torch.equal(layout.items >= 0, there)
        assert torch.equal(labels[layout.items.clamp(min=0) % len(images)][there], layout.valid[there])
        assert bool((layout.items[~there] == -1).all())
        large = there & (layout.items < len(images))
        assert bool((large.sum(1) == 1).all())
    assert torch.equal(first.cells, second.cells)
    assert torch.equal(first.valid[:, 0], second.valid[:, 0])
    same = shown[0] == shown[1]
    assert torch.equal(first.items[same], second.items[same])
    several = shown[1] > 1
    assert float((second.items[several, 0] < len(images)).float().mean()) == pytest.approx(0.75, abs=0.08)


def test_batches() -> None:
    data = canvases()
    x, y, valid = next(iter(data.train_dataloader()))
    assert (x.shape, valid.shape) == ((40, 1, 56, 56), (40, 4))
    assert torch.equal(valid[:, 0], y)
    loaders = data.test_dataloader()
    assert [sum(len(batch.y) for batch in loader) for loader in loaders] == [400, 400]
    assert data.spec.sizes == {"train": 200, "val": 0, "test": 800}
    first, second = (next(iter(loader)) for loader in loaders)
    same = (first.valid == second.valid).all(1)
    assert 0 < int(same.sum()) < 40  # as many objects in both
    assert torch.equal(first.x[same], second.x[same])
    assert not torch.equal(first.x, second.x)


def test_test_canvases_are_made_of_test_images() -> None:
    """What is served is the layout's items in the layout's cells, black where there is none."""
    data = canvases()
    images = data.images["test"]
    for name, loader in zip(("v1", "v2"), data.test_dataloader(), strict=True):
        layout = data.served[name]
        shown = data.shown(next(iter(loader)).x)
        for row in range(5):
            quarters = shown[row, 0].unfold(0, 28, 28).unfold(1, 28, 28).flatten(0, 1)  # (4, 28, 28)
            for item, cell in zip(layout.items[row].tolist(), layout.cells[row].tolist(), strict=True):
                expected = images[item, 0] / 255 if item >= 0 else torch.zeros(28, 28)
                assert torch.allclose(quarters[cell], expected, atol=1e-4)


def test_coarse_pixels_by_hand_and_nothing_else_changes() -> None:
    image = torch.tensor([[0, 2, 10], [4, 6, 30], [1, 1, 8]], dtype=torch.uint8)[None, None]
    assert averaged(image, 2)[0, 0].tolist() == [[3, 3, 20], [3, 3, 20], [1, 1, 8]]
    assert torch.equal(averaged(image, 1), image)
    sharp, coarse = (canvases(v1=CanvasSet(V2), v2=CanvasSet(V2, block=block)) for block in (1, 3))
    assert torch.equal(sharp.served["v2"].items, coarse.served["v2"].items)
    x = [next(iter(loader)).x for loader in coarse.test_dataloader()]
    assert not torch.equal(x[0], x[1])
    assert float((x[0] - x[1]).mean()) == pytest.approx(0, abs=0.02)


def test_missing_labels_leave_the_canvases_and_the_original_label() -> None:
    data = canvases(v1=CanvasSet(V2, missed=0.787), v2=CanvasSet(V2))
    strict, full = data.served["v1"], data.served["v2"]
    assert torch.equal(strict.items, full.items)
    assert torch.equal(strict.valid[:, 0], full.valid[:, 0])
    further = full.valid[:, 1:] >= 0
    still_valid = (strict.valid[:, 1:] >= 0) & further
    assert torch.equal(still_valid, strict.valid[:, 1:] >= 0)
    assert float(still_valid.sum() / further.sum()) == pytest.approx(0.213, abs=0.06)
    assert not (canvases(v1=CanvasSet(V2, missed=1.0)).served["v1"].valid[:, 1:] >= 0).any()


def test_the_seed_decides_and_training_canvases_show_no_test_image() -> None:
    first, again, other = canvases(), canvases(), canvases(seed=4)
    assert first.spec.identity == again.spec.identity != other.spec.identity
    shown = {
        name: {bytes(image.numpy()) for image in first.images[split][layout.items[layout.items >= 0]]}
        for name, split, layout in (("a", "train", first.served["train"]), ("b", "test", first.served["v2"]))
    }
    assert not shown["a"] & shown["b"]


def test_each_seed_makes_other_images_large_and_misses_other_labels() -> None:
    large, missed = [], []
    for seed in (0, 1):
        sets = {"v1": CanvasSet([0, 0, 0, 1], missed=0.5)}
        data = CountedCanvases(FashionMNIST(50, seed=3), 40, V1, sets, test_size=400, seed=seed)
        data.setup()
        layout = data.served["v1"]
        large.append((layout.items < len(data.source.splits["test"][0])).int().argmax(1))
        missed.append(layout.valid < 0)
    assert float((large[0] != large[1]).float().mean()) > 0.2
    assert float((missed[0] != missed[1]).float().mean()) > 0.2


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match=r"counts=\[1, 2\]: expected 4 numbers"):
        CanvasSet([1, 2])
    with pytest.raises(DataError, match="expected 4 numbers"):
        CanvasSet([0, 0, 0, 0])
    with pytest.raises(DataError, match=r"missed=1\.5"):
        CanvasSet(V1, missed=1.5)
    with pytest.raises(DataError, match="block=0"):
        CanvasSet(V1, block=0)
