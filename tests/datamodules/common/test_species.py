"""Generated species: pictures show what mask, boxes, concepts and labels say, and pixels alone do not give it away."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import RidgeClassifier
from torch import Tensor

from datamodules.common.base import DataError
from datamodules.common.species import (
    BAR,
    BODY,
    CLASSES,
    CONCEPTS,
    COUNTS,
    OBJECT,
    PART_OF_CONCEPT,
    PARTS,
    RADII,
    SIDE,
    VALUES,
    Shortcut,
    Species,
    boxes_around,
    concepts_of,
    draw,
    hsv_to_rgb,
    values_of,
)

LABELS = torch.arange(len(CLASSES)).repeat(5)


@pytest.fixture(scope="module")
def drawn() -> tuple[Tensor, Tensor, Tensor]:
    """Clean pictures in [0, 1], masks and boxes, five of each class."""
    pictures = draw(LABELS, torch.Generator().manual_seed(0), noise=0.0, clutter=0)
    return pictures.images.float() / 255, pictures.mask, pictures.boxes


def test_classes_are_all_combinations_and_neighbours_differ_in_one_part() -> None:
    assert len(CLASSES) == len(set(VALUES)) == math.prod(COUNTS) == 40
    values = values_of(torch.arange(40))
    differ = (values[:, None] != values[None]).sum(-1)  # (40, 40)
    assert ((differ == 1).sum(1) == sum(count - 1 for count in COUNTS)).all()  # 4 + 1 + 1 + 1 neighbours
    assert CLASSES[0] == "red, upright, round, small"
    assert CLASSES[-1] == "violet, level, pointed, large"


def test_concepts_say_what_the_class_says() -> None:
    concepts = concepts_of(torch.arange(40))
    assert concepts.shape == (40, len(CONCEPTS)) == (40, 11)
    assert (concepts.sum(1) == len(PARTS)).all()
    for label, name in enumerate(CLASSES):
        shown = [CONCEPTS[k] for k in concepts[label].nonzero().flatten()]
        assert shown == [f"{part} {value}" for part, value in zip(PARTS, name.split(", "), strict=True)]
    assert [CONCEPTS[k].split()[0] for k in range(11)] == [PARTS[p] for p in PART_OF_CONCEPT]


def test_boxes_and_masks_cover_the_parts(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    _, mask, boxes = drawn
    assert set(mask.unique().tolist()) == set(range(BODY + 1))
    line = torch.arange(SIDE)
    for part in range(OBJECT + 1):
        region = mask == part + 1 if part < OBJECT else mask > 0
        x1, y1, x2, y2 = boxes[:, part].T.view(4, -1, 1)
        in_x, in_y = (line >= x1) & (line < x2), (line >= y1) & (line < y2)  # (N, S)
        box = in_y[:, :, None] & in_x[:, None, :]
        assert not (region & ~box).any()
        assert torch.equal(region.any(1), in_x)  # no smaller box would do
        assert torch.equal(region.any(2), in_y)
    share = (mask > 0).float().mean()
    assert 0.3 < float(share) < 0.45


def test_parts_do_not_touch_and_lie_on_their_body(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    _, mask, _ = drawn
    neighbours = torch.stack([mask.roll(1, 1), mask.roll(1, 2), mask.roll(-1, 1), mask.roll(-1, 2)])
    for part in range(1, BODY):
        around = neighbours[(mask == part).expand_as(neighbours)]
        assert float(((around == part) | (around == BODY)).float().mean()) > 0.99  # but for a few tips of large stars


def decode(images: Tensor, mask: Tensor) -> Tensor:
    """What each part shows, by simple measures of its own pixels: (N, 4) values."""
    n = len(images)
    actual = []
    for part in range(len(PARTS)):
        region = (mask == part + 1)[:, None].float()  # (N, 1, S, S)
        area = region.sum((1, 2, 3))
        if PARTS[part] == "hue":  # the mean colour without its grey
            mean = (images * region).sum((2, 3)) / area[:, None]
            pure = hsv_to_rgb(torch.arange(5) / 5, torch.ones(5), torch.ones(5))  # (5, 3)
            chroma = mean - mean.mean(1, keepdim=True)
            pure = pure - pure.mean(1, keepdim=True)
            actual.append(torch.cosine_similarity(chroma[:, None], pure[None], dim=-1).argmax(1))
        elif PARTS[part] == "size":
            actual.append((area > math.pi * (sum(RADII) / 2) ** 2).long())
        elif PARTS[part] == "outline":  # second moments of a disc are area^2 / 2 pi, of a star more
            y, x = torch.meshgrid(torch.arange(float(SIDE)), torch.arange(float(SIDE)), indexing="ij")
            m = region[:, 0]
            dx, dy = (a - ((m * a).sum((1, 2)) / area).view(n, 1, 1) for a in (x, y))
            spread = (m * (dx.square() + dy.square())).sum((1, 2)) * 2 * math.pi / area.square()
            actual.append((spread > 1.15).long())
        else:  # upright stripes change along rows, level ones along columns
            grey = images.mean(1, keepdim=True)
            inner = -torch.nn.functional.max_pool2d(-region, 3, 1, 1)
            along_x, along_y = (((grey.roll(1, axis) - grey).square() * inner).sum((1, 2, 3)) for axis in (3, 2))
            actual.append((along_y > along_x).long())
    return torch.stack(actual, 1)


def test_every_attribute_can_be_read_off_its_part(drawn: tuple[Tensor, Tensor, Tensor]) -> None:
    images, mask, _ = drawn
    right = (decode(images, mask) == values_of(LABELS)).float().mean(0)
    assert right.tolist() == pytest.approx([1.0] * 4, abs=0.03)


def test_no_other_part_tells_the_class() -> None:
    """What the class does not decide is drawn evenly: a part's other attributes are those of no class."""
    labels = torch.full((400,), 0)  # red, upright, round, small
    pictures = draw(labels, torch.Generator().manual_seed(1), noise=0.0, clutter=0)
    area = torch.stack([(pictures.mask == part + 1).sum((1, 2)) for part in range(4)], 1).float()
    large = area > math.pi * (sum(RADII) / 2) ** 2
    assert large.float().mean(0).tolist() == pytest.approx([0.5, 0.5, 0.5, 0.0], abs=0.08)


def test_a_linear_probe_on_pixels_does_not_solve_it() -> None:
    data = Species(60, 20, 10, seed=3)
    data.setup()
    (train, y), (test, y_test) = data.splits["train"], data.splits["test"]
    small = [torch.nn.functional.avg_pool2d(x / 255, 8).flatten(1).numpy() for x in (train, test)]  # (N, 192)
    probe = RidgeClassifier(alpha=10.0).fit(small[0], y.numpy())
    assert probe.score(small[1], y_test.numpy()) < 0.1  # chance is 0.025


def test_splits_are_balanced_apart_and_fixed_by_the_seed() -> None:
    data, again, other = (Species(60, 3, 2, 1, seed=seed) for seed in (0, 0, 1))
    for made in (data, again, other):
        made.setup()
    assert {name: labels.bincount().unique().tolist() for name, (_, labels) in data.splits.items()} == {
        "train": [3],
        "val": [1],
        "test": [2],
    }
    every = [image.numpy().tobytes() for images, _ in data.splits.values() for image in images]
    assert len(set(every)) == len(every) == 240
    assert data.spec.sizes == {"train": 120, "val": 40, "test": 80}
    assert again.spec.identity == data.spec.identity != other.spec.identity


def test_batches_have_the_columns_asked_for() -> None:
    data = Species(20, 2, 1, extras=("mask", "boxes", "concepts", "bar"), rows=True)
    data.setup()
    batch = next(iter(data.test_dataloader()))
    assert batch._fields == ("x", "y", "row", "mask", "boxes", "concepts", "bar")
    assert [tuple(c.shape) for c in batch] == [(20, 3, 64, 64), (20,), (20,), (20, 64, 64), (20, 5, 4), (20, 11), (20,)]
    batch = next(iter(data.train_dataloader()))
    images, labels = data.splits["train"]
    assert torch.equal(batch.y, labels[batch.row])
    assert torch.allclose(data.shown(batch.x), images[batch.row] / 255, atol=1e-6)
    assert torch.equal(batch.mask, data.known["train"].mask[batch.row])
    assert torch.equal(batch.concepts, concepts_of(batch.y))
    assert next(iter(Species(20, 2, 1).spec.shape)) == 3


def test_mean_and_deviation() -> None:
    images = draw(LABELS, torch.Generator().manual_seed(2)).images.float() / 255
    assert images.mean((0, 2, 3)).tolist() == pytest.approx([0.5] * 3, abs=0.03)
    assert images.std((0, 2, 3)).tolist() == pytest.approx([0.2] * 3, abs=0.03)


def test_a_shortcut_agrees_in_training_and_not_in_the_test() -> None:
    data = Species(60, 12, 12, shortcut=Shortcut("outline pointed", 0.9, 0.5))
    data.setup()
    for name, share in (("train", 0.9), ("test", 0.5)):
        images, labels = data.splits[name]
        concept = concepts_of(labels)[:, CONCEPTS.index("outline pointed")].bool()
        white = (images[:, :, :BAR] == 255).flatten(1).all(1)
        assert torch.equal(white, data.bars[name])
        assert float((white == concept).float().mean()) == pytest.approx(share, abs=0.06)
    plain = Species(60, 12, 12)
    plain.setup()
    assert not plain.bars["train"].any()
    assert torch.equal(plain.splits["train"][0][:, :, BAR:], data.splits["train"][0][:, :, BAR:])
    assert "outline pointed" in data.spec.split


def test_colours() -> None:
    pure = hsv_to_rgb(torch.tensor([0.0, 1 / 3, 2 / 3, 0.5]), torch.ones(4), torch.ones(4))
    assert torch.allclose(pure, torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]]), atol=1e-6)
    grey = hsv_to_rgb(torch.tensor(0.3), torch.tensor(0.0), torch.tensor(0.7))
    assert torch.allclose(grey, torch.full((3,), 0.7))


def test_a_box_by_hand() -> None:
    region = torch.zeros(4, 6, dtype=torch.bool)
    region[1, 2] = region[3, 4] = True
    assert boxes_around(region).tolist() == [2.0, 1.0, 5.0, 4.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_per_class": 0}, "expected pictures"),
        ({"noise": -1.0}, "nothing negative"),
        ({"extras": ("masks",)}, "expected one of mask, boxes"),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Species(60, **options)


def test_wrong_shortcuts() -> None:
    with pytest.raises(DataError, match="expected one of hue red"):
        Shortcut("red")
    with pytest.raises(DataError, match="shares between 0 and 1"):
        Shortcut("hue red", 1.5)
