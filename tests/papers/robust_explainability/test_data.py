"""Canvases with boxes, and ImageNet's boxes after the crop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.common.base import DataError
from datamodules.common.species import Shortcut, Species
from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.robust_explainability.attributes import Attributes
from datamodules.robust_explainability.boxed import BoxedImageNet, cropped, read_boxes
from datamodules.robust_explainability.pasted import Pasted, Scene, draw
from datamodules.robust_explainability.shifted import ShiftedImageNet

WNIDS = ("n01440764", "n01443537")  # classes 0 and 1


def pasted(tuning: bool = False, val: int = 20, seed: int = 1) -> Pasted:
    return Pasted(FashionMNIST(32, train_size=60, val_size=val, test_size=30, seed=seed), 16, tuning=tuning)


def test_the_box_is_tight_and_the_object_in_it() -> None:
    images = torch.zeros(6, 1, 28, 28, dtype=torch.uint8)
    images[:, :, 4:24, 8:20] = 255
    scene = Scene(side=40, image=28, clutter=0, noise=0.0, uneven=0.0, low=0.5, high=0.5)
    canvases, boxes = draw(images, scene, torch.Generator().manual_seed(0))
    for canvas, box in zip(canvases[:, 0], boxes.long().tolist(), strict=True):
        x1, y1, x2, y2 = box
        assert (x2 - x1, y2 - y1) == (12, 20)
        assert (canvas[y1:y2, x1:x2] == 255).all()
        canvas[y1:y2, x1:x2] = 128
        assert (canvas == 128).all()
    assert len({tuple(box) for box in boxes.tolist()}) > 3  # anywhere


def test_clutter_has_half_the_contrast_where_that_is_asked_for() -> None:
    """White pieces on grey: half way between grey and white, of which the object shows all."""
    images = torch.full((3, 1, 28, 28), 255, dtype=torch.uint8)
    scene = Scene(side=60, image=28, clutter=8, noise=0.0, uneven=0.0, low=0.5, high=0.5, contrast=0.5)
    canvases, _ = draw(images, scene, torch.Generator().manual_seed(0))
    assert canvases.unique().tolist() == [128, 191, 255]  # 0.75 of 255


def test_an_image_that_covers_nothing_has_the_whole_patch_as_its_box() -> None:
    _, boxes = draw(torch.zeros(2, 1, 28, 28, dtype=torch.uint8), Scene(), torch.Generator().manual_seed(0))
    assert ((boxes[:, 2] - boxes[:, 0]) == 20).all()


def test_the_canvas_has_no_pixels_that_say_nothing() -> None:
    """On black, Input x Gradient would be 0 outside the object by construction."""
    data = pasted()
    data.setup()
    x = data.normalised(data.splits["test"][0])
    assert (x == 0).float().mean() < 0.02
    assert abs(float(x.mean())) < 0.5  # grey in the mean
    assert data.splits["test"][0].shape == (30, 1, 36, 36)


def test_a_box_covers_about_a_fifth() -> None:
    data = Pasted(FashionMNIST(32, train_size=10, test_size=400, seed=0), 16)
    data.setup()
    boxes = data.boxes["test"]
    share = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).mean() / 36**2
    assert 0.15 < float(share) < 0.27
    assert (boxes >= 0).all()
    assert (boxes <= 36).all()


def test_splits_are_drawn_anew_for_each_seed_and_the_same_for_one() -> None:
    one, same, other = pasted(), pasted(), pasted(seed=2)
    for data in (one, same, other):
        data.setup()
    assert one.spec.identity == same.spec.identity != other.spec.identity
    assert torch.equal(one.splits["train"][0], same.splits["train"][0])
    assert not torch.equal(one.splits["train"][0][:20], one.splits["val"][0])


def test_batches_say_which_images_to_tune_on() -> None:
    data = pasted(tuning=True)
    data.setup()
    assert data.spec.sizes["test"] == 50
    batches = list(data.test_dataloader())
    in_test = torch.cat([batch.in_test for batch in batches])
    row = torch.cat([batch.row for batch in batches])
    assert in_test.tolist() == [0] * 20 + [1] * 30
    assert row.tolist() == [*range(20), *range(30)]
    assert torch.cat([batch.boxes for batch in batches]).shape == (50, 1, 4)
    assert next(iter(data.train_dataloader()))._fields == ("x", "y")


def test_bad_options_are_named() -> None:
    with pytest.raises(DataError, match="side >= image >= piece"):
        Scene(side=16, image=20)
    with pytest.raises(DataError, match="expected validation images; the source has none"):
        pasted(tuning=True, val=0)


def annotation(folder: Path, name: str, size: tuple[int, int], boxes: list[tuple[int, int, int, int]]) -> None:
    objects = "".join(
        f"<object><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d in boxes
    )
    text = f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{objects}</annotation>"
    (folder / f"{name}.xml").write_text(text)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight photos, a white square in a known box; one has two boxes, one a box that covers it all."""
    (tmp_path / "boxes").mkdir()
    for number in range(8):
        folder = tmp_path / "val" / WNIDS[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        width, height = (120, 90) if number % 3 else (90, 120)
        pixels = np.zeros((height, width, 3), np.uint8)
        box = (30, 30, 60, 60)
        pixels[30:60, 30:60] = 255
        Image.fromarray(pixels).save(folder / f"photo_{number}.png")
        boxes = [box, (0, 0, 5, 5)] if number == 3 else [(0, 0, width, height)] if number == 5 else [box]
        annotation(tmp_path / "boxes", f"photo_{number}", (width, height), boxes)
    return tmp_path


def boxed(root: Path, images: int = 4, tuning_images: int = 2) -> BoxedImageNet:
    return BoxedImageNet(
        str(root), 3, images, tuning_images, image_size=64, resize=72, mean=[0, 0, 0], std=[1, 1, 1], num_workers=0
    )


def test_boxes_go_where_the_photo_goes(photos: Path) -> None:
    data = boxed(photos)
    data.setup()
    batches = list(data.test_dataloader())
    assert sum(len(batch.y) for batch in batches) == 6 == data.spec.sizes["test"]
    assert torch.cat([batch.in_test for batch in batches]).tolist() == [0, 0, 1, 1, 1, 1]
    assert torch.cat([batch.row for batch in batches]).tolist() == [0, 1, 0, 1, 2, 3]
    for batch in batches:
        for x, ((x1, y1, x2, y2),) in zip(batch.x[:, 0], batch.boxes.round().long().tolist(), strict=True):
            bright = (x > 0.5).nonzero()
            assert torch.allclose(bright.amin(0), torch.tensor([y1, x1]), atol=1)
            assert torch.allclose(bright.amax(0) + 1, torch.tensor([y2, x2]), atol=1)
    again = boxed(photos)
    again.setup()
    assert data.spec.sizes == {"train": 0, "test": 6}
    assert batches[0].x.dtype == torch.float32
    assert float(torch.cat([batch.x for batch in batches]).max()) == pytest.approx(1)  # white, not 255
    assert again.items == data.items
    assert again.spec.identity == data.spec.identity


def test_fewer_photos_than_fit_may_be_asked_for(photos: Path) -> None:
    data = boxed(photos, images=2, tuning_images=1)
    data.setup()
    assert len({name for name, _ in data.items["test"]}) == 3


def test_stand_ins_have_a_box_in_their_middle() -> None:
    """Two batches; every other image is to tune on."""
    data = BoxedImageNet("nowhere", 3, image_size=64, generated=True)
    data.setup()
    assert data.spec.sizes == {"train": 0, "test": 3000}
    batches = list(data.test_dataloader())
    assert [batch.x.shape for batch in batches] == [(3, 3, 64, 64)] * 2
    assert torch.cat([batch.boxes for batch in batches]).tolist() == [[[16, 16, 48, 48]]] * 6
    assert torch.cat([batch.in_test for batch in batches]).tolist() == [0, 1] * 3
    assert torch.cat([batch.row for batch in batches]).tolist() == [0, 0, 1, 1, 2, 2]


def test_what_does_not_fit_is_left_out_or_named(photos: Path) -> None:
    data = boxed(photos, images=5)
    with pytest.raises(DataError, match="has 6 photos with one box below 50% of the crop; cannot take images=5"):
        data.setup()
    (photos / "boxes" / "photo_0.xml").write_text("<annotation>")
    with pytest.raises(DataError, match=r"photo_0.xml cannot be read as a PASCAL VOC annotation"):
        boxed(photos).setup()
    with pytest.raises(DataError, match="images=0"):
        boxed(photos, images=0)


def test_crop_by_hand() -> None:
    """400 x 200 pixels at 256: 512 x 256, of which columns 144 to 368 and rows 16 to 240 stay."""
    boxes = torch.tensor([[100.0, 50, 200, 150], [0, 0, 100, 20]])
    expected = [[0, 48, 112, 176], [0, 0, 0, 9.6]]
    assert torch.allclose(cropped(boxes, (400, 200), 256, 224), torch.tensor(expected), atol=0.01)


def test_missing_boxes_are_said_before_anything_runs(photos: Path) -> None:
    assert boxed(photos).available() == ""
    for file in (photos / "boxes").iterdir():
        file.unlink()
    (photos / "boxes").rmdir()
    assert "boxes" in boxed(photos).available()
    with pytest.raises(DataError, match="photo"):
        read_boxes(photos / "photo.xml")


def test_shifted_sets_are_read_from_whatever_folders_they_come_in(tmp_path: Path) -> None:
    for folder in ("blur/1", "blur/3", "noise/3", "train"):
        for number, wnid in enumerate(WNIDS):
            place = tmp_path / folder / wnid
            place.mkdir(parents=True)
            Image.fromarray(np.full((40, 40, 3), 50 * number, np.uint8)).save(place / "photo.png")
    data = ShiftedImageNet(str(tmp_path), 4, "corrupted", 6, image_size=32, num_workers=0)
    assert data.available() == ""
    data.setup()
    assert data.spec.sizes["test"] == 6
    assert next(iter(data.test_dataloader())).x.shape == (4, *data.spec.shape) == (4, 3, 32, 32)
    assert sorted(torch.cat([batch.y for batch in data.test_dataloader()]).tolist()) == [0, 0, 0, 1, 1, 1]
    assert "does not exist" in ShiftedImageNet(str(tmp_path / "none"), 4, "corrupted", 6).available()


@pytest.mark.parametrize("shortcut", [None, Shortcut("hue red")])
def test_species_are_told_apart_by_one_part_whose_box_is_served(shortcut: Shortcut | None) -> None:
    source = Species(8, train_per_class=1, val_per_class=1, test_per_class=1, shortcut=shortcut)
    data = Attributes(source, 8, part="outline", tuning=True)
    data.setup()
    assert data.spec.classes == ("round", "pointed")
    assert data.spec.sizes["test"] == 80
    batches = list(data.test_dataloader())
    assert torch.cat([batch.y for batch in batches]).bincount().tolist() == [40, 40]
    masks = torch.cat([source.known[name].mask for name in ("val", "test")])
    boxes = torch.cat([batch.boxes for batch in batches])[:, 0].long()
    for mask, (x1, y1, x2, y2) in zip(masks == 3, boxes.tolist(), strict=True):
        assert mask[y1:y2, x1:x2].sum() == mask.sum() > 0
    with pytest.raises(DataError, match="expected one of hue, texture, outline, size"):
        Attributes(source, 8, part="wing")
