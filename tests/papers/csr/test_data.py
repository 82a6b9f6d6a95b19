"""Concepts and boxes of species, maps as data, and folders of photos."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules.common.base import DataError, Fed, generator
from datamodules.common.species import CONCEPTS, concepts_of, draw, values_of
from datamodules.csr.encoded import ConceptVectors, Encoded, dealt, scattered
from datamodules.csr.photos import FindingsFolder, read_listing
from modules.csr.module import ConceptModel
from tests.papers.csr.conftest import encoded_by, findings


def test_a_box_is_around_the_part_that_shows_the_concept() -> None:
    data = findings(everything=True)
    data.setup()
    batches = list(data.test_dataloader())
    shows = torch.cat([b.shows for b in batches])
    concepts = torch.cat([b.concepts for b in batches])
    y = torch.cat([b.y for b in batches])
    assert torch.equal(concepts, concepts_of(y))
    assert (concepts.gather(1, shows[:, :4]) == 1).all()
    assert set(shows[:, 4].tolist()) == {-1, len(CONCEPTS)}
    bars = torch.cat([data.source.bars[name] for name in ("train", "test")])
    assert torch.equal(shows[:, 4] == len(CONCEPTS), bars)
    assert torch.cat([b.in_test for b in batches]).tolist() == [0] * 80 + [1] * 40
    first = batches[0]
    assert first.boxes[:, 4].tolist() == [[0, 0, 64, 3]] * len(first.boxes)
    assert data.spec.sizes == {"train": 80, "val": 0, "test": 120}


def test_training_pictures_come_with_their_concepts() -> None:
    data = findings()
    data.setup()
    batches = list(data.train_dataloader())
    assert sum(len(batch.y) for batch in batches) == 80
    for batch in batches:
        assert torch.equal(batch.concepts, concepts_of(batch.y))
    order = torch.cat([batch.y for batch in batches])
    y = data.source.splits["train"][1]
    assert torch.equal(order.sort().values, y.sort().values)
    assert not torch.equal(order, y)


def test_boxes_do_not_tell_hue_and_texture() -> None:
    """A part's outline and size change its own box a little; what else it shows does not."""
    count = 20
    labels = [torch.full((count,), label) for label in (0, 28)]
    assert [values_of(label[:1]).tolist() for label in labels] == [[[0, 0, 0, 0]], [[3, 1, 0, 0]]]
    one, other = (draw(label, generator("test", 2)) for label in labels)
    assert torch.equal(one.boxes, other.boxes)
    assert not torch.equal(one.images, other.images)


def test_controls_have_the_same_size() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 64.0, 3.0], [10.0, 20.0, 22.0, 31.0]]]).expand(500, 2, 4)
    moved = scattered(boxes, (64, 64), generator("test", 0))
    assert torch.equal(moved[..., 2:] - moved[..., :2], boxes[..., 2:] - boxes[..., :2])
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 64
    assert {0.0, 61.0} <= set(moved[:, 0, 1].tolist())  # from the first to the last row
    concepts = torch.tensor([[1.0, 0, 0, 1, 0]]).expand(500, 5)
    other = dealt(concepts, generator("test", 1))
    assert other.sum(1).eq(2).all()
    assert torch.allclose(other.mean(0), torch.full((5,), 0.4), atol=0.1)


def test_maps_as_data(encoded: Encoded, encode: Any) -> None:
    made = encode.artifacts()
    train = {int(r): x for batch in encoded.train_dataloader() for r, x in zip(batch.row, batch.x, strict=True)}
    assert len(train) == 80
    assert torch.equal(train[7], torch.from_numpy(made["maps"][7]))
    (test,) = encoded.test_dataloader()
    assert torch.equal(test.x, torch.from_numpy(made["maps"][80:]))
    assert encoded.image_side == (64, 64)
    assert encoded.grid == tuple(made["maps"].shape[2:])
    maps, _, shows = encoded.training_maps(torch.tensor([5, 0]))
    assert torch.equal(maps[0], train[5])
    assert shows.shape == (2, 5)
    assert encoded.spec.sizes == {"train": 80, "val": 0, "test": 40}
    images = encoded.training_images([5])
    assert torch.allclose(images * 255, encoded.source.source.splits["train"][0][5:6].float(), atol=0.01)


def test_vectors_know_their_image(vectors: ConceptVectors, encoded: Encoded) -> None:
    labels = {int(r): c for batch in encoded.train_dataloader() for r, c in zip(batch.row, batch.concepts, strict=True)}
    batches = list(vectors.train_dataloader())
    assert sum(len(batch.y) for batch in batches) == vectors.spec.sizes["train"] == 320
    assert all(labels[int(r)][int(k)] == 1 for batch in batches for r, k in zip(batch.row, batch.y, strict=True))
    assert vectors.spec.classes == CONCEPTS


def test_maps_of_other_images(encode: Any) -> None:
    data = Encoded(findings(), Fed(encode, {name: array[1:] for name, array in encode.artifacts().items()}), 40)
    with pytest.raises(DataError, match="maps of 119 images, but species has 120"):
        data.setup()


def test_validation_pictures_are_in_no_other_split(model: ConceptModel) -> None:
    """Neither in training nor in the test, as maps or as vectors, and those splits stay as they are without any."""
    made = encoded_by(model, validation=1).artifacts()
    assert [int((made["in_test"] == number).sum()) for number in (0, 1, 2)] == [80, 40, 40]
    data = Encoded(findings(validation=1), Fed(model, made), 40)
    data.setup()
    assert data.spec.sizes == {"train": 80, "val": 40, "test": 40}
    (loader,) = data.val_dataloader()
    (batch,) = list(loader)
    assert torch.equal(batch.x, torch.from_numpy(made["maps"][made["in_test"] == 2]))

    plain = encoded_by(model).artifacts()
    (test,) = data.test_dataloader()
    assert torch.equal(test.x, torch.from_numpy(plain["maps"][plain["in_test"] == 1]))
    vectors = ConceptVectors(findings(validation=1), Fed(model, made), 40)
    vectors.setup()
    assert vectors.spec.sizes == {"train": 320, "val": 0, "test": 160}
    assert vectors.val_dataloader() == []
    train = torch.cat([batch.x for batch in vectors.train_dataloader()])
    expected = torch.from_numpy(plain["vectors"][plain["vector_in_test"] == 0])
    assert torch.equal(train.sort(0).values, expected.sort(0).values)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Three photos of 8x4 pixels with two concepts, and tables that may be changed."""

    def make(images: str = "", boxes: str = "") -> Path:
        (tmp_path / "images").mkdir(exist_ok=True)
        for number, name in enumerate(("a.png", "b.png", "c.png")):
            Image.new("RGB", (8, 4), (40 * number, 0, 0)).save(tmp_path / "images" / name)
        lines = "file,split,class,mass,cyst\na.png,train,ill,1,0\nb.png,train,well,0,0\nc.png,test,ill,1,1\n"
        (tmp_path / "images.csv").write_text(images or lines)
        (tmp_path / "boxes.csv").write_text(
            boxes or "file,concept,x1,y1,x2,y2\nc.png,cyst,2,1,4,3\nc.png,negative,0,0,8,1\n"
        )
        return tmp_path

    return make


def photos(root: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> FindingsFolder:
    from datamodules.csr import photos as module

    small = module.Collection("small", 2, 2, 2, 1, "nowhere")
    monkeypatch.setitem(module.COLLECTIONS, "small", small)
    return FindingsFolder(str(root), 2, "small", image_size=16, num_workers=0, **options)


def test_photos_with_boxes_in_pixels_of_the_square(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photos(folder(), monkeypatch, everything=True)
    assert data.available() == ""
    data.setup()
    batches = list(data.test_dataloader())
    assert torch.cat([b.in_test for b in batches]).tolist() == [0, 0, 1]
    last = batches[-1]
    assert last.boxes.tolist() == [[[4, 4, 8, 12], [0, 0, 16, 4]]]
    assert last.shows.tolist() == [[1, 2]]
    assert last.concepts.tolist() == [[1, 1]]
    assert batches[0].shows.tolist() == [[-1, -1]] * 2
    assert data.spec.classes == ("ill", "well")
    assert data.concepts == ("mass", "cyst")
    (train,) = data.train_dataloader()
    assert sorted(train.y.tolist()) == [0, 1]
    assert train.x.shape == (2, 3, 16, 16)
    assert data.training_images([1]).shape == (1, 3, 16, 16)


def test_photos_are_tested_in_the_order_of_their_table(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shuffled, they would come in another order by one of six seeds."""
    for seed in range(6):
        data = photos(folder(), monkeypatch, everything=True, seed=seed)
        data.setup()
        assert torch.cat([b.concepts for b in data.test_dataloader()]).tolist() == [[1, 0], [0, 0], [1, 1]]


def test_half_of_the_training_photos_are_mirrored_by_seed_epoch_and_photo(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A photo that is black on the left and white on the right."""
    root = folder()
    ramp = Image.new("RGB", (8, 4))
    ramp.paste((255, 255, 255), (4, 0, 8, 4))
    for name in ("a.png", "b.png", "c.png"):
        ramp.save(root / "images" / name)

    def mirrored(seed: int = 0, **options: Any) -> list[list[bool]]:
        """For 40 epochs, each of the two training photos."""
        data = photos(root, monkeypatch, seed=seed, **options)
        data.setup()
        training: Any = data.dataset("train", tested=False)
        samples = [[training[epoch, item][0] for item in range(2)] for epoch in range(40)]
        return [[bool(x[0, 0, 0] > x[0, 0, -1]) for x in epoch] for epoch in samples]

    first = mirrored()
    shares = torch.tensor(first).float().mean(0)
    assert ((shares > 0.2) & (shares < 0.8)).all()
    assert [epoch[0] for epoch in first] != [epoch[1] for epoch in first]
    assert first == mirrored()
    assert first != mirrored(seed=1)
    assert not torch.tensor(mirrored(mirror=False)).any()

    data = photos(root, monkeypatch, everything=True)
    data.setup()
    tested: Any = data.dataset("train", tested=True)  # boxes are not mirrored
    assert all(tested[epoch, 0][0][0, 0, 0] < tested[epoch, 0][0][0, 0, -1] for epoch in range(10))


def test_stand_ins_of_photos_have_a_box_for_each_concept_they_show(tmp_path: Path) -> None:
    data = FindingsFolder(str(tmp_path), 4, "tbx11k", image_size=32, everything=True, generated=True)
    data.setup()
    assert data.spec.source == "generated"
    assert data.spec.classes == ("0", "1", "2")
    train = list(data.train_dataloader())
    assert [batch._fields for batch in train] == [("x", "y", "concepts", "row")] * 2
    for batch in data.test_dataloader():
        assert batch.x.shape == (4, 3, 32, 32)
        assert batch.concepts.any(1).all()  # a local vector can be made of each
        numbers = torch.arange(len(data.concepts))
        assert torch.equal(batch.shows, torch.where(batch.concepts > 0, numbers, -1))
        sides = batch.boxes[..., 2:] - batch.boxes[..., :2]
        assert torch.allclose(sides, torch.full_like(sides, 8.0))
        assert 0 <= float(batch.boxes.min()) < float(batch.boxes.max()) <= 32
        assert set(batch.in_test.tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("images", "boxes", "message"),
    [
        ("file,class\na.png,ill\n", "", "expected it to begin file,split,class"),
        ("file,split,class\na.png,train,ill\n", "", "expected concepts after file,split,class"),
        ("file,split,class,mass\na.png,train,ill,1,1\n", "", "line 2: 5 values where the first line names 4"),
        ("file,split,class,mass\na.png,val,ill,1\n", "", "line 2: expected split train or test"),
        (
            "file,split,class,mass\na.png,train,ill,yes\n",
            "",
            "line 2: expected split train or test and concepts 0 or 1",
        ),
        (
            "",
            "file,concept,x1,y1,x2,y2\nd.png,mass,0,0,1,1\n",
            "boxes.csv, line 2: .* expected a known file and concept",
        ),
        (
            "",
            "file,concept,x1,y1,x2,y2\na.png,mass,3,0,1,1\n",
            "boxes.csv, line 2: .* expected a known file and concept, x1 < x2",
        ),
    ],
)
def test_tables_that_make_no_sense(folder: Callable[..., Path], images: str, boxes: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_listing(folder(images, boxes))


def test_folders_that_do_not_fit(folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="collection='tbx': expected one of isic2017, tbx11k"):
        FindingsFolder(str(tmp_path), 2, "tbx")
    assert "images.csv is missing" in FindingsFolder(str(tmp_path / "nowhere"), 2).available()
    with pytest.raises(DataError, match="has 2 classes; expected 3"):
        FindingsFolder(str(folder()), 2, "isic2017").setup()
    data = photos(folder(), monkeypatch)
    (tmp_path / "images" / "c.png").write_bytes(b"nothing")
    data.setup()
    with pytest.raises(DataError, match=r"c\.png cannot be decoded"):
        list(data.test_dataloader())
