"""The label files of ImageNet's validation photos."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules.bagel.annotations import ImageNetMultiLabel, Mistakes, read_annotations
from datamodules.common.base import DataError
from datamodules.common.timm_photos import input_of

NAMES = {"models": ["vit3b", "greedy_soups"], "categories": ["fine_grained", "other"], "severities": ["major", "minor"]}
WNIDS = ("n01440764", "n01443537", "n01484850")  # classes 0, 1, 2


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (40, 24)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def write_labels(path: Path, **changes: object) -> Path:
    stored = {
        "initial_annots": {
            "ILSVRC2012_val_00000001.JPEG": {"correct": [WNIDS[0]], "unclear": [WNIDS[1]], "wrong": [WNIDS[2]]},
            "ILSVRC2012_val_00000002.JPEG": {"correct": [WNIDS[1]]},
            "ILSVRC2012_val_00000003.JPEG": {"wrong": [WNIDS[2]]},
            "imagenetv2-1.jpeg": {"correct": ["n00000000"]},
        },
        "problematic_images": {"ILSVRC2012_val_00000003.JPEG": "no label fits"},
        "imagenet_m": ["ILSVRC2012_val_00000002.JPEG"],
        **changes,
    }
    path.write_text(json.dumps(stored))
    return path


@pytest.fixture
def validation(tmp_path: Path) -> Path:
    for number, wnid in ((1, WNIDS[0]), (2, WNIDS[1]), (3, WNIDS[2]), (4, WNIDS[2])):
        folder = tmp_path / "imagenet" / "val" / wnid
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"ILSVRC2012_val_{number:08}.JPEG").write_bytes(picture((10 * number, 0, 0), (300, 260)))
    return tmp_path / "imagenet"


def labelled(root: Path, labels: Path, *models: str) -> ImageNetMultiLabel:
    return ImageNetMultiLabel(str(root), str(labels), models or ("resnet18.tv_in1k",), batch_size=3, num_workers=0)


def test_unclear_counts_as_right_and_wrong_does_not(validation: Path, tmp_path: Path) -> None:
    data = labelled(validation, write_labels(tmp_path / "labels.json"))
    assert data.available() == ""
    data.setup()
    assert data.original.tolist() == [0, 1, 2, 2]
    assert data.valid.tolist() == [[0, 1], [1, -1], [-1, -1], [-1, -1]]
    assert data.skip.tolist() == [False, False, True, True]  # problematic, never annotated
    assert data.major.tolist() == [False, True, False, False]
    batches = list(data.test_dataloader())
    assert batches[0]._fields == ("x", "y", "valid", "skip", "major")
    assert [len(batch[1]) for batch in batches] == [3, 1]
    assert batches[0][0].shape == (3, 3, 224, 224)
    assert torch.equal(batches[0][2], data.valid[:3])
    assert data.spec.sizes["test"] == 4


def test_each_model_brings_its_own_input(validation: Path, tmp_path: Path) -> None:
    data = labelled(
        validation, write_labels(tmp_path / "labels.json"), "resnet18.tv_in1k", "tf_efficientnet_lite2.in1k"
    )
    data.setup()
    first, second = next(iter(data.test_dataloader()))[0]
    assert (first.shape[1:], second.shape[1:]) == ((3, 224, 224), (3, 260, 260))
    assert float(first[0, 0, 100, 100]) == pytest.approx((10 / 255 - 0.485) / 0.229, abs=0.02)
    assert float(second[0, 0, 100, 100]) == pytest.approx((10 / 255 - 0.5) / 0.5, abs=0.02)


def test_inputs_are_those_of_the_published_accuracies() -> None:
    """resnet50.tv2_in1k was trained at 176 and measured at 224; EVA-02 squashes instead of cropping."""
    actual = input_of("resnet50.tv2_in1k")
    assert (actual["input_size"], actual["crop_pct"]) == ((3, 224, 224), 0.965)
    actual = input_of("eva02_large_patch14_448.mim_m38m_ft_in22k_in1k")
    assert (actual["input_size"], actual["crop_mode"]) == ((3, 448, 448), "squash")
    with pytest.raises(DataError, match="'resnet50' is no timm model with a tag"):
        input_of("resnet50")


def test_labels_are_never_made_up(validation: Path, tmp_path: Path) -> None:
    data = labelled(validation, tmp_path / "labels.json")
    assert "403" in data.available()
    with pytest.raises(DataError, match=r"labels.json is missing; .*403.*no other label set"):
        data.setup()
    both = labelled(tmp_path / "nowhere", tmp_path / "labels.json").available()
    assert "nowhere does not exist" in both
    assert "403" in both


def test_photos_of_another_split_are_not_taken(validation: Path, tmp_path: Path) -> None:
    (validation / "val").rename(validation / "train")
    data = labelled(validation, write_labels(tmp_path / "labels.json"))
    assert data.available().startswith(f"{validation} has no val folder. photos: https://image-net.org")
    with pytest.raises(DataError, match="val holds no image"):
        data.setup()


def test_labels_that_do_not_fit_the_photos_are_refused(validation: Path, tmp_path: Path) -> None:
    other = {"ILSVRC2012_val_00000001.JPEG": {"correct": [WNIDS[2]]}}
    with pytest.raises(DataError, match="lies in class folder n01440764"):
        labelled(validation, write_labels(tmp_path / "labels.json", initial_annots=other)).setup()
    unknown = {"ILSVRC2012_val_00000001.JPEG": {"correct": [WNIDS[0], "n00000000"]}}
    with pytest.raises(DataError, match="'n00000000' that ImageNet does not know"):
        labelled(validation, write_labels(tmp_path / "labels.json", initial_annots=unknown)).setup()
    (tmp_path / "labels.json").write_text("{}")
    with pytest.raises(DataError, match=r"no human_accuracy_v3.0.0.json"):
        read_annotations(tmp_path / "labels.json")
    (tmp_path / "labels.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        read_annotations(tmp_path / "labels.json")


def test_mistakes_are_read_and_what_is_not_known_is_named(tmp_path: Path) -> None:
    data = Mistakes(str(tmp_path), **NAMES)
    assert "no vit3b_mistakes.json" in data.available()
    with pytest.raises(DataError, match="imagenet-mistakes"):
        data.setup()
    major = {"top_prediction": 7, "failure category": "Fine-grained error", "failure severity": "Major"}
    odd = {**major, "failure category": "Fine-grained with Multilabel Options", "failure severity": "Minor"}
    (tmp_path / "vit3b_mistakes.json").write_text(json.dumps({"a": major, "b": odd}))
    (tmp_path / "greedy_soups_mistakes.json").write_text(json.dumps({"b": major}))
    (tmp_path / "class_confusion_wnids.json").write_text(json.dumps([[WNIDS[2], WNIDS[0], 4]]))
    data.setup()
    assert data.photos.tolist() == [[[7, 0, 0], [-1, -1, -1]], [[7, 1, 1], [7, 0, 0]]]
    assert data.pairs.tolist() == [[2, 0, 4]]
    assert data.spec.sizes["test"] == 2
    (tmp_path / "class_confusion_wnids.json").write_text(json.dumps([[WNIDS[2], WNIDS[0], 3]]))
    other = Mistakes(str(tmp_path), **NAMES)
    other.setup()
    assert "" != other.spec.identity != data.spec.identity != ""
    (tmp_path / "vit3b_mistakes.json").write_text(json.dumps({"a": {**major, "failure severity": "Awful"}}))
    with pytest.raises(DataError, match="a: a category or severity that is not known"):
        Mistakes(str(tmp_path), **NAMES).setup()


def test_a_dry_run_gets_data_of_the_declared_shapes() -> None:
    data = ImageNetMultiLabel(
        "nowhere", "nowhere", ["resnet18.tv_in1k", "tf_efficientnet_lite1.in1k"], 2, generated=True
    )
    data.setup()
    views, original, valid, skip, major = next(iter(data.test_dataloader()))
    assert [tuple(view.shape) for view in views] == [(2, 3, 224, 224), (2, 3, 240, 240)]
    assert (len(original), len(valid), len(skip), len(major)) == (2, 2, 2, 2)
    assert valid.tolist() == [[label, (label + 1) % 1000] for label in original.tolist()]
    assert (skip.tolist(), major.tolist()) == ([False, False], [True, False])
    assert not any(torch.equal(*view) for view in views)  # two photos each
    assert data.spec.source == "generated"


def test_a_dry_run_gets_mistakes_of_the_declared_kinds() -> None:
    data, again = (Mistakes("nowhere", **NAMES, generated=True) for _ in range(2))
    for each in (data, again):
        each.setup()
    photos, pairs = (next(iter(loader)) for loader in data.test_dataloader())
    assert (photos.shape, pairs.shape) == ((8, 2, 3), (8, 3))
    assert all(int(photos[..., place].min()) >= 0 for place in range(3))
    assert [int(photos[..., place].max()) for place in (1, 2)] == [1, 1]  # two categories, two severities
    assert int(photos[..., 0].max()) > 1
    assert 1 <= int(pairs.min()) < int(pairs.max()) <= 4
    assert torch.equal(again.photos, photos)
    assert torch.equal(again.pairs, pairs)
    assert data.spec.source == "generated"
