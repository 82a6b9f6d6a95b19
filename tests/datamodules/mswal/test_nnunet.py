"""nnU-Net's folders: preprocessing, folds, statistics, and what is missing or damaged."""

from __future__ import annotations

import gzip
import json
import os
import struct
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from datamodules.common.base import DataError
from datamodules.mswal import contents, nnunet
from datamodules.mswal.nnunet import Dataset, NnUNetFolder, Split
from datamodules.mswal.preprocessing import Preprocessing, resample
from datamodules.mswal.volumes import PatchSampling

PLAN: dict[str, Any] = {
    "classes": ["background", "liver", "tumour"],
    "cases": 10,
    "spacing": [1.0, 2.0, 2.0],  # (z, y, x)
    "clip": [-100, 200],
    "mean": 50.0,
    "std": 25.0,
    "num_workers": 0,
}


def build(folder: Path | str, **options: Any) -> NnUNetFolder:
    """A folder as PLAN says, with other options; each goes into the object that has it."""
    left = {**PLAN, **options}
    objects = []
    for kind in (Dataset, Preprocessing, Split):
        objects.append(kind(**{field.name: left.pop(field.name) for field in fields(kind) if field.name in left}))
    return NnUNetFolder(str(folder), 2, PatchSampling([8, 8, 8], iterations=3), *objects, **left)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five scans of 20 x 16 x 10 voxels (x, y, z) at 1 x 1 x 2 mm, the second mirrored in x, and two test scans."""
    rng = np.random.default_rng(0)
    for part, names in (("Tr", [f"case_{i}" for i in range(5)]), ("Ts", ["case_8", "case_9"])):
        (tmp_path / f"images{part}").mkdir()
        (tmp_path / f"labels{part}").mkdir()
        for number, name in enumerate(names):
            label = np.zeros((20, 16, 10), dtype=np.uint8)
            label[2:14, 2:12, 1:9] = 1
            label[4:10, 4:8, 3:7] = 2
            image = (label * 60.0 + rng.normal(0, 5, label.shape)).astype(np.float32)
            image[0, 0, 0] = 3000
            affine = np.diag([-1.0 if number == 1 else 1.0, 1.0, 2.0, 1.0])
            for kind, array, ending in (("images", image, "_0000"), ("labels", label, "")):
                nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"{kind}{part}" / f"{name}{ending}.nii.gz")
    labels = {"background": 0, "liver": 1, "tumor": 2}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "channel_names": {"0": "CT"}}))
    return tmp_path


def opened(folder: Path, **options: Any) -> NnUNetFolder:
    data = build(folder, **options)
    data.prepare_data()
    data.setup()
    return data


def test_scans_are_resampled_clipped_and_normalised(folder: Path) -> None:
    data = opened(folder)
    assert data.spec.sizes == {"train": 4, "val": 0, "test": 1}
    assert data.spec.classes == ("background", "liver", "tumor")
    assert data.spec.source == "real"
    volume = data.train[0]
    assert volume.image.shape == (1, 20, 8, 10)  # (z, y, x): 10 x 2 mm, 16 x 1 mm, 20 x 1 mm
    assert volume.label.shape == (20, 8, 10)
    assert float(volume.image.max()) < 12  # 3000 HU would be 118; splines overshoot the clipped 6
    inside = volume.image[0, 9:11, 2:4, 3:4].mean() * 25 + 50
    assert float(inside) == pytest.approx(120, abs=15)
    share = (volume.label == 2).float().mean()
    assert float(share) == pytest.approx(6 * 4 * 4 / (20 * 16 * 10), rel=0.25)
    assert set(volume.voxels) == {1, 2}
    assert all(int(volume.label[tuple(at)]) == number for number, actual in volume.voxels.items() for at in actual)
    x, y = next(iter(data.train_dataloader()))
    assert x.shape == (2, 1, 8, 8, 8)
    assert y.shape == (2, 8, 8, 8)


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_resampling_keeps_the_outer_faces(factor: float) -> None:
    """A ramp: the centre of new voxel i lies at (i + 1/2) f - 1/2 old voxels."""
    ramp = torch.arange(20.0).view(1, 20, 1, 1).expand(1, 20, 8, 8)
    scan, label = (MetaTensor(x, affine=torch.eye(4)) for x in (ramp, (ramp > 9).float()))
    pixels, labels = resample(scan, label, [1.0, 1.0, factor], [0, 100], 0.0, 1.0, 2)
    assert labels is not None
    assert pixels.shape == (1, 8, 8, 20 / factor)
    line, wanted = pixels[0, 4, 4], (torch.arange(20 / factor) + 0.5) * factor - 0.5
    inner = (wanted > 4) & (wanted < 15)  # splines bend at the ends
    assert torch.allclose(line[inner], wanted[inner], atol=0.02)
    assert torch.equal(labels[4, 4] == 1, wanted > 9.5)


def test_test_scans_keep_their_annotation(folder: Path) -> None:
    for number in range(5):
        data = opened(folder, fold=number)
        image, label = data.pair(0)
        assert image.shape == (1, 20, 8, 10)
        assert label.shape == (10, 16, 20)  # as annotated, (z, y, x)
        flipped = int(data._tests[0] == "case_1")
        assert int(label[5, 5, 14 if flipped else 5]) == 2  # mirrored scans are turned
    ts = opened(folder, test="Ts", folds=1)
    assert ts.spec.sizes == {"train": 5, "val": 0, "test": 2}
    assert ts.pair(0)[1].shape == (10, 16, 20)


def test_folds_are_disjoint_cover_everything_and_do_not_depend_on_the_seed(folder: Path) -> None:
    held = [build(folder, fold=f, seed=f).listed() for f in range(5)]
    assert sorted(name for _, test in held for name in test) == [f"case_{i}" for i in range(5)]
    assert all(not set(train) & set(test) for train, test in held)
    assert held[0] == build(folder, fold=5, seed=99).listed()


def test_preprocessing_is_done_once_and_depends_on_the_plan(folder: Path) -> None:
    data = opened(folder)
    (file,) = data.folder.glob("case_0-*/image.npy")
    before = file.stat().st_mtime_ns
    assert opened(folder).folder == data.folder
    assert file.stat().st_mtime_ns == before
    assert opened(folder, std=30.0).folder != data.folder


MEASURED: dict[str, Any] = {"clip": None, "mean": None, "std": None}


@pytest.mark.parametrize("statistics", [{}, MEASURED])
def test_a_replaced_scan_is_the_one_that_is_trained_on(folder: Path, statistics: dict[str, Any]) -> None:
    """Under the same name, with the old file's times, and of the same size where it is stored plainly."""
    before = opened(folder, **statistics)
    case = before.train.folders[0].name.split("-")[0]
    file = folder / "imagesTr" / f"{case}_0000.nii.gz"
    old, status = file.read_bytes(), file.stat()

    scan = nibabel.load(file)
    brighter = np.asarray(scan.dataobj) + 30  # type: ignore[attr-defined]
    nibabel.save(nibabel.Nifti1Image(brighter, scan.affine), file)  # type: ignore[attr-defined]
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = opened(folder, **statistics)
    old_pixels, pixels = (data.train[0].image * data.plan["std"] + data.plan["mean"] for data in (before, after))
    inside = before.train[0].label == 1
    assert float((pixels - old_pixels)[0][inside].mean()) == pytest.approx(30, abs=3)
    assert after.spec.identity != before.spec.identity

    file.write_bytes(old)
    again = opened(folder, **statistics)
    assert again.spec.identity == before.spec.identity
    assert again.train.folders == before.train.folders  # preprocessed before, and still there


def test_a_replaced_label_is_another_dataset(folder: Path) -> None:
    """Of a scan to train on, and of one to test on, whose label is no part of what is stored."""
    identities = [opened(folder, test="Ts", folds=1).spec.identity]
    for part, case in (("Tr", "case_4"), ("Ts", "case_8")):
        file = folder / f"labels{part}" / f"{case}.nii.gz"
        label = nibabel.load(file)
        drawn = np.asarray(label.dataobj).copy()  # type: ignore[attr-defined]
        drawn[4:10, 4:8, 3:5] = 1
        nibabel.save(nibabel.Nifti1Image(drawn, label.affine), file)  # type: ignore[attr-defined]
        data = opened(folder, test="Ts", folds=1)
        identities.append(data.spec.identity)
        if part == "Tr":
            number = [path.name.split("-")[0] for path in data.train.folders].index(case)
            assert int((data.train[number].label == 2).sum()) < int((data.train[0].label == 2).sum())
    assert len(set(identities)) == 3


def test_what_other_code_preprocessed_is_made_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = opened(folder, **MEASURED)
    unchanged = before.folder, before._statistics
    monkeypatch.setattr(nnunet, "maker", lambda: "another")
    after = opened(folder, **MEASURED)
    assert not {after.folder, after._statistics} & set(unchanged)
    assert after.folder.is_dir()
    assert after.spec.identity == before.spec.identity  # of the same scans


def test_files_that_did_not_change_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened(folder)
    read: list[Path] = []
    mark = contents._mark
    monkeypatch.setattr(contents, "_mark", lambda file: read.append(file) or mark(file))
    opened(folder)
    assert read == []
    (folder / "imagesTr" / "case_0_0000.nii.gz").touch()
    first = opened(folder).spec.identity
    assert [file.name for file in read] == ["case_0_0000.nii.gz"]

    ledger = folder / "preprocessed" / "contents.json"
    ledger.write_text("{damaged")
    assert opened(folder).spec.identity == first
    assert len(read) == 1 + 10


@pytest.mark.parametrize("workers", [0, 2])
def test_grey_values_come_from_the_foreground_of_all_training_scans(folder: Path, workers: int) -> None:
    """By hand, each scan with equal weight: one has a tenth of the others' foreground and is brighter by 500."""
    path = folder / "labelsTr" / "case_2.nii.gz"
    small = np.zeros((20, 16, 10), dtype=np.uint8)
    small[2:14, 2:6, 1:3] = 1
    nibabel.save(nibabel.Nifti1Image(small, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    file = folder / "imagesTr" / "case_2_0000.nii.gz"
    scan = nibabel.load(file)
    nibabel.save(nibabel.Nifti1Image(scan.get_fdata().astype(np.float32) + 500, scan.affine), file)
    inside = []
    for number in range(5):
        image = nibabel.load(folder / "imagesTr" / f"case_{number}_0000.nii.gz").get_fdata()
        inside.append(image[nibabel.load(folder / "labelsTr" / f"case_{number}.nii.gz").get_fdata() > 0])
    mean = np.mean([grey.mean() for grey in inside])
    spread = np.sqrt(np.mean([((grey - mean) ** 2).mean() for grey in inside]))
    data = opened(folder, **MEASURED, num_workers=workers)
    assert data.plan["mean"] == pytest.approx(mean, rel=1e-3) == data.spec.mean[0]
    assert data.plan["std"] == pytest.approx(spread, rel=1e-3) == data.spec.std[0]
    assert data.plan["clip"][0] == pytest.approx(np.percentile(np.concatenate(inside), 0.5), abs=3)
    assert data.plan["clip"][1] > 550
    assert opened(folder, **MEASURED, fold=1).folder == data.folder  # the same for every fold


def test_statistics_are_measured_before_anything_is_read(folder: Path) -> None:
    data = build(folder, **MEASURED)
    with pytest.raises(DataError, match=r"grey-\w+\.json cannot be read"):
        data.setup()
    with pytest.raises(DataError, match="expected all three or none"):
        build(folder, mean=None)


def test_names_may_come_from_the_recipe(folder: Path) -> None:
    assert opened(folder, rename=True).spec.classes == ("background", "liver", "tumour")


def test_the_older_label_format_is_read(folder: Path) -> None:
    (folder / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "liver", "2": "cancer"}}))
    assert opened(folder).spec.classes[2] == "cancer"


def test_what_is_missing_or_damaged_is_named(folder: Path) -> None:
    elsewhere = build(folder / "nowhere")
    assert "nowhere has no dataset.json and no imagesTr" in elsewhere.available()
    with pytest.raises(DataError, match="nowhere"):
        elsewhere.prepare_data()
    fail = partial(pytest.raises, DataError)
    with fail(match="recipe expects 2"):
        opened(folder, classes=["background", "liver"])
    (folder / "labelsTr" / "case_3.nii.gz").unlink()
    with fail(match=r"labelsTr/case_3\.nii\.gz is missing"):
        opened(folder)
    (folder / "labelsTr" / "case_3.nii.gz").write_bytes(b"no nifti")
    with fail(match=r"case_3\.nii\.gz cannot be read"):
        opened(folder, std=31.0)
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": [1, 2]}}))
    with fail(match="expected labels"):
        build(folder)._names()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("giant", r"case_3_0000\.nii\.gz cannot be read \(its header says \(30000, 30000, 30000\)"),
        ("cut", r"case_3_0000\.nii\.gz cannot be read"),
        ("NaN", r"case_3_0000\.nii\.gz holds values that are no numbers"),
        ("label", r"case_3\.nii\.gz has labels from 0 to 7; expected 0 to 2"),
        ("fraction", r"case_3\.nii\.gz has labels from 0 to 1.5; expected 0 to 2, whole"),
    ],
)
def test_scans_that_would_ruin_a_training_are_refused(folder: Path, kind: str, message: str) -> None:
    scan, label = folder / "imagesTr" / "case_3_0000.nii.gz", folder / "labelsTr" / "case_3.nii.gz"
    values = np.asarray(nibabel.load(scan).dataobj)  # type: ignore[attr-defined]
    if kind == "giant":
        content = bytearray(gzip.decompress(scan.read_bytes()))
        content[42:48] = struct.pack("<3h", 30000, 30000, 30000)  # dim[1..3] of the header
        scan.write_bytes(gzip.compress(bytes(content)))
    elif kind == "cut":
        scan.write_bytes(scan.read_bytes()[:-4000])
    elif kind == "NaN":
        values[3, 3, 3] = np.nan
        nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), scan)
    else:
        drawn = np.asarray(nibabel.load(label).dataobj).astype(np.float32)  # type: ignore[attr-defined]
        drawn[drawn == 2] = 1
        drawn[3, 3, 3] = 7 if kind == "label" else 1.5
        nibabel.save(nibabel.Nifti1Image(drawn, np.diag([1.0, 1.0, 2.0, 1.0])), label)
    with pytest.raises(DataError, match=message):
        opened(folder)


def test_declared_sizes_without_reading() -> None:
    data = build("nowhere", generated=True)
    assert data.spec.sizes == {"train": 8, "val": 0, "test": 2}
    assert (data.spec.shape, data.spec.source) == ((1, 8, 8, 8), "real")
    data.setup()
    assert data.spec.source == "generated"
    assert next(iter(data.train_dataloader()))[0].shape == (2, 1, 8, 8, 8)


def test_wrong_splits_are_named() -> None:
    with pytest.raises(DataError, match="test='Tr': expected 'fold' or 'Ts'"):
        Split("Tr")
    with pytest.raises(DataError, match="folds=1: testing on a fold needs at least 2"):
        Split(folds=1)
