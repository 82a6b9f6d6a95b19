"""Released labels become the two tables: small releases by hand, read as the data module reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.csr.photos import read_listing
from datamodules.csr.tables import agreed, iou, main


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_superpixels_become_boxes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Superpixels of four columns: 0 left, 1 middle, 2 right and 256 far right, as red + 256 green."""
    numbers = np.repeat([0, 1, 2, 256], 4)[None].repeat(6, 0)
    for part, image in (("Training", "ISIC_1"), ("Test_v2", "ISIC_2"), ("Training", "ISIC_3")):
        folder = tmp_path / "images" / f"ISIC-2017_{part}_Data"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 6)).save(folder / f"{image}.jpg")
        encoded = np.stack([numbers % 256, numbers // 256, 0 * numbers], -1).astype(np.uint8)
        Image.fromarray(encoded).save(folder / f"{image}_superpixels.png")
    flags = {name: [0] * 257 for name in ("pigment_network", "negative_network", "milia_like_cyst", "streaks")}
    streaks = [0] * 257
    streaks[0] = streaks[2] = streaks[256] = 1  # left; right and far right, which touch
    write(tmp_path / "labels/a/ISIC_1_features.json", json.dumps({**flags, "streaks": streaks}))
    write(tmp_path / "labels/b/ISIC_2_features.json", json.dumps(flags))
    head = "image_id,melanoma,seborrheic_keratosis\n"
    lines = "ISIC_1,1.0,0.0\nISIC_3,0.0,1.0\n"  # ISIC_3 has no features
    write(tmp_path / "labels/ISIC-2017_Training_Part3_GroundTruth.csv", head + lines)
    write(tmp_path / "labels/ISIC-2017_Test_v2_Part3_GroundTruth.csv", head + "ISIC_2,0.0,0.0\n")

    assert main(["isic2017", str(tmp_path)]) == 0
    assert "2 images, boxes.csv with 2 boxes" in capsys.readouterr().out
    listing = read_listing(tmp_path)
    assert listing.concepts == ("pigment_network", "negative_network", "milia_like_cyst", "streaks")
    assert listing.classes == ("melanoma", "nevus")
    (train,), (test,) = listing.splits["train"], listing.splits["test"]
    assert train.file == "ISIC-2017_Training_Data/ISIC_1.jpg"
    assert train.concepts == (0, 0, 0, 1)
    assert train.boxes == ((0, 0, 4, 6), (8, 0, 16, 6))
    assert train.shows == (3, 3)
    assert (test.label, test.concepts, test.boxes) == (1, (0, 0, 0, 0), ())


def test_boxes_of_tuberculosis_are_its_concepts(tmp_path: Path) -> None:
    for name, files in (("train", ["health/h1.png", "tb/t1.png"]), ("val", ["sick/s1.png"])):
        write(tmp_path / f"labels/lists/TBX11K_{name}.txt", "\n".join(files))
        images = [{"id": number, "file_name": file} for number, file in enumerate(files)]
        boxes = [{"image_id": 1, "category_id": 2, "bbox": [10, 20, 5, 6]}] if name == "train" else []
        write(tmp_path / f"labels/json/TBX11K_{name}.json", json.dumps({"images": images, "annotations": boxes}))
    assert main(["tbx11k", str(tmp_path)]) == 0
    listing = read_listing(tmp_path)
    assert listing.classes == ("health", "sick", "tb")
    assert listing.concepts == ("ActiveTuberculosis", "ObsoletePulmonaryTuberculosis", "PulmonaryTuberculosis")
    healthy, ill = listing.splits["train"]
    assert healthy.concepts == (0, 0, 0)
    assert (ill.concepts, ill.boxes, ill.shows) == ((0, 1, 0), ((10, 20, 15, 26),), (1,))
    assert [finding.file for finding in listing.splits["test"]] == ["sick/s1.png"]


def test_two_of_three_readers_decide(tmp_path: Path) -> None:
    head = "Nodule/Mass,Cardiomegaly,Pneumonia,{},No finding\n"
    votes = "a,R1,1,0,1,0,0\na,R2,1,1,1,1,0\na,R3,0,0,0,1,0\n"
    write(tmp_path / "labels/image_labels_train.csv", "image_id,rad_id," + head.format("Other diseases") + votes)
    write(tmp_path / "labels/image_labels_test.csv", "image_id," + head.format("Other disease") + "b,0,1,0,0,1\n")
    boxes = "a,R1,Nodule/Mass,0,0,10,10\na,R2,Nodule/Mass,0,0,10,12\na,R2,Nodule/Mass,50,50,60,60\n"
    boxes += "a,R2,Cardiomegaly,1,1,9,9\na,R3,No finding,,,,\n"
    head = "image_id,rad_id,class_name,x_min,y_min,x_max,y_max\n"
    write(tmp_path / "labels/annotations_train.csv", head + boxes)
    write(tmp_path / "labels/annotations_test.csv", head.replace("rad_id,", "") + "b,Cardiomegaly,3,4,5,6\n")
    assert main(["vindr_cxr", str(tmp_path)]) == 0
    listing = read_listing(tmp_path)
    assert listing.concepts == ("Nodule/Mass",)  # cardiomegaly: one reader of three in training images
    (train,), (test,) = listing.splits["train"], listing.splits["test"]
    assert listing.classes[train.label] == "Pneumonia"  # as many readers as for another disease, which comes later
    assert train.boxes == ((0, 0, 10, 11),)
    assert listing.classes[test.label] == "No finding"


def test_boxes_agree_by_overlap_and_reader() -> None:
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0
    assert iou((1, 1, 1, 1), (1, 1, 1, 1)) == 0  # a point
    assert agreed([("R1", (0, 0, 2, 2)), ("R1", (0, 0, 2, 2))], 2) == []
    assert agreed([("R1", (0, 0, 2, 2)), ("R2", (1, 0, 3, 2))], 2) == []
    assert agreed([("", (0, 0, 2, 2))], 1) == [(0, 0, 2, 2)]


def test_a_release_that_is_not_there_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tbx11k", str(tmp_path)]) == 2
    assert "TBX11K_train.json is missing" in capsys.readouterr().err
