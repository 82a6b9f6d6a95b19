"""Photos in class folders with all their valid labels."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules.common.base import DataError
from datamodules.reassess_imagenet.labels import LabelFile
from datamodules.reassess_imagenet.photos import PhotoSet, PhotoSets

WNIDS = ("n01440764", "n01443537", "n01484850")  # classes 0, 1, 2
ROOT = Path(os.environ.get("REPRISE_DATA", "data"))


def photo(path: Path, red: int) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (300, 260), (red, 0, 0)).save(stream, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stream.getvalue())


@pytest.fixture
def imagenet(tmp_path: Path) -> PhotoSet:
    for number, wnid in ((1, WNIDS[0]), (2, WNIDS[2]), (3, WNIDS[2])):
        photo(tmp_path / "imagenet" / "val" / wnid / f"ILSVRC2012_val_{number:08}.JPEG", 40 * number)
    (tmp_path / "real.json").write_text(json.dumps([[0, 5], [], [2]]))
    return PhotoSet(str(tmp_path / "imagenet"), "val", labels=LabelFile(str(tmp_path), "real.json"))


@pytest.fixture
def second(tmp_path: Path) -> PhotoSet:
    for name, red in (("2", 10), ("10", 20), ("999", 30)):
        photo(tmp_path / "v2" / name / f"hash{name}.jpeg", red)
    labels = {"hash2.jpeg": ["2", "7"], "hash10.jpeg": ["10"], "hash999.jpeg": []}
    (tmp_path / "refined.json").write_text(json.dumps(labels))
    return PhotoSet(str(tmp_path / "v2"), folders="number", labels=LabelFile(str(tmp_path), "refined.json"))


def test_labels_follow_the_names_of_the_photos(imagenet: PhotoSet, second: PhotoSet) -> None:
    data = PhotoSets({"v1": imagenet, "v2": second}, "tf_efficientnet_lite1.in1k", batch_size=2, num_workers=0)
    assert data.available() == ""
    assert data.spec.sizes == {"train": 0, "val": 0, "test": 0}  # nobody said how many there are
    data.setup()
    assert data.spec.sizes == {"train": 0, "val": 0, "test": 6}
    first, other = data.listed["v1"], data.listed["v2"]
    assert first.original.tolist() == [0, 2, 2]
    assert first.valid.tolist() == [[0, 5], [-1, -1], [2, -1]]
    # folders named by number are numbers: in the order of texts "10" comes before "2"
    assert dict(zip(other.original.tolist(), other.valid.tolist(), strict=True)) == {
        2: [2, 7],
        10: [10, -1],
        999: [-1, -1],
    }
    batches = [list(loader) for loader in data.test_dataloader()]
    assert [[len(batch.y) for batch in loader] for loader in batches] == [[2, 1], [2, 1]]
    assert batches[0][0].x.shape == (2, 3, 240, 240)
    assert float(batches[0][0].x[0, 0, 100, 100]) == pytest.approx((40 / 255 - 0.5) / 0.5, abs=0.02)
    assert torch.equal(batches[0][1].valid, first.valid[2:])


def test_without_a_label_file_the_folder_is_the_label(imagenet: PhotoSet) -> None:
    data = PhotoSets({"v1": PhotoSet(imagenet.root, "val")}, "resnet18.tv_in1k", num_workers=0)
    data.setup()
    assert data.listed["v1"].valid.tolist() == [[0], [2], [2]]
    assert len(data.test_dataloader()) == 1


def test_what_is_missing_or_does_not_fit_is_named(imagenet: PhotoSet, second: PhotoSet, tmp_path: Path) -> None:
    nowhere = PhotoSet(str(tmp_path / "nowhere"), "val", labels=LabelFile(str(tmp_path), "none.json"))
    problem = PhotoSets({"v1": nowhere}, "resnet18.tv_in1k").available()
    assert "none.json is missing" in problem
    assert "nowhere does not exist" in problem
    assert " photos: your own photos in folders of ImageNet's classes" in problem
    assert "has no test folder" in PhotoSet(imagenet.root, "test").available()
    with pytest.raises(DataError, match="has no test folder"):
        PhotoSet(imagenet.root, "test").read()
    with pytest.raises(DataError, match=r"refined.json has no labels for ILSVRC2012_val_00000001"):
        PhotoSet(imagenet.root, "val", labels=second.labels).read()
    with pytest.raises(DataError, match="class folder '10', which is no wnid"):
        PhotoSet(second.root).read()
    with pytest.raises(DataError, match="class folder 'n01440764', which is no number"):
        PhotoSet(imagenet.root, "val", folders="number").read()
    with pytest.raises(DataError, match="folders='names': expected one of wnid, number"):
        PhotoSet("x", folders="names")
    with pytest.raises(DataError, match="'resnet18' is no timm model with a tag"):
        PhotoSets({}, "resnet18")


def test_a_dry_run_gets_images_of_the_models_size(imagenet: PhotoSet) -> None:
    sets = {"v1": PhotoSet("nowhere", "val", size=50_000), "v2": PhotoSet("nowhere", size=10_000)}
    data = PhotoSets(sets, "tf_efficientnet_lite2.in1k", batch_size=2, generated=True)
    assert data.spec.sizes["test"] == 60_000
    data.setup()
    first, second = (list(loader) for loader in data.test_dataloader())
    assert len(first) == len(second) == 2
    for x, y, valid in (*first, *second):
        assert (x.shape, y.shape, valid.shape) == ((2, 3, 260, 260), (2,), (2, 2))
        assert torch.equal(valid[:, 0], y)
        assert bool(((valid[:, 1] == -1) | (valid[:, 1] == (y + 1) % 1000)).all())
    assert data.spec.source == "generated"


def test_the_sample_photos_are_read() -> None:
    samples = PhotoSet(str(ROOT / "imagenet_samples"), "val")
    if problem := samples.available():
        pytest.skip(problem)
    listed = samples.read()
    assert listed.original.tolist() == list(range(1000))
    assert listed.valid.shape == (1000, 1)
