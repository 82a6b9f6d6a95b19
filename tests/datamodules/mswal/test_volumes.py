"""3-D data: generated phantoms, patches, and nnU-Net's folders."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from datamodules.common.base import Batches, DataError, hashed
from datamodules.mswal.nnunet import NnUNetFolder, resample
from datamodules.mswal.phantoms import LESIONS, Phantoms, phantoms
from datamodules.mswal.volumes import Patches, Volume, cut, nnunet_augmentation, patch_keys, places

SMALL: dict[str, Any] = {"size": 32, "patch": [16, 16, 16], "train_size": 5, "test_size": 3, "iterations": 4}
AUGMENTED: dict[str, Any] = {"augment": nnunet_augmentation, "margin": 1.375}


def served(data: Phantoms, epoch: int = 0, skip: int = 0) -> list[tuple[Tensor, Tensor]]:
    data.setup()
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    loader.load_state_dict({"position": skip})
    return list(loader)


def test_phantoms_are_a_function_of_the_seed_and_not_of_their_number() -> None:
    few, many = phantoms([3, 4], 48, 0.1), phantoms([3, 4, 5], 48, 0.1)
    assert torch.equal(few[0], many[0][:2])
    assert torch.equal(few[1], many[1][:2])
    assert not torch.equal(many[0][0], many[0][1])


def test_phantoms_have_the_lesions_they_say() -> None:
    images, labels = phantoms(range(60), 48, 0.0)
    assert labels.unique().tolist() == [0, 1, 2, 3]
    counts = [int((labels == c).sum((1, 2, 3)).max()) for c in (1, 2, 3)]
    ball = 4 / 3 * np.pi
    assert counts[0] <= 5 * ball * 2.4**3  # at most five stones of radius 2
    assert counts[1] <= 5 * ball * 7.2**3
    organ = images[(labels == 0) & (images > 0.6)].mean()
    grey = [float(images[labels == c].mean() / organ) for c in (1, 2, 3)]
    assert grey[0] > 1.3  # stones are bright
    assert grey[1] < grey[2] < 1  # cysts are darker than tumours, tumours than the organ
    assert any(int(label.max()) == 0 for label in labels)  # a volume may have no lesion


def test_train_and_test_phantoms_differ_and_so_do_streams() -> None:
    data, other = Phantoms(2, **SMALL), Phantoms(2, **SMALL, stream=1)
    data.setup()
    other.setup()
    marks = [hashed(v.image) for v in data.train] + [hashed(data.pair(i)[0]) for i in range(3)]
    marks += [hashed(v.image) for v in other.train]
    assert len(set(marks)) == 13
    assert data.spec.source == "generated"
    assert data.spec.identity != other.spec.identity
    again = Phantoms(2, **SMALL)
    again.setup()
    assert again.spec == data.spec


def test_unlabelled_lesions_are_background() -> None:
    every, some = Phantoms(2, **SMALL), Phantoms(2, **SMALL, labelled=["tumour"])
    every.setup()
    some.setup()
    assert some.spec.classes == ("background", "tumour")
    for a, b in zip(every.train, some.train, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.label == 1 + LESIONS.index("tumour"), b.label == 1)


def test_grey_values_are_those_of_the_training_lesions() -> None:
    data = Phantoms(2, **{**SMALL, "train_size": 40})
    data.setup()
    lesions = torch.cat([v.image[0][v.label > 0] for v in data.train])
    assert abs(float(lesions.mean())) < 0.01
    assert abs(float(lesions.std()) - 1) < 0.01
    assert max(float(v.image.max()) for v in data.train) == pytest.approx(float(lesions.max()))


@pytest.mark.parametrize("options", [{}, AUGMENTED])
def test_batches_repeat_and_resume(options: dict[str, Any]) -> None:
    data = Phantoms(2, **SMALL, **options)
    whole, rest = served(data), served(data, skip=2)
    assert len(whole) == 4
    assert [x.shape for x, _ in whole] == [(2, 1, 16, 16, 16)] * 4
    assert whole[0][1].shape == (2, 16, 16, 16)
    assert whole[0][1].dtype == torch.int64
    assert all(torch.equal(a, b) for pair in zip(whole[2:], rest, strict=True) for a, b in zip(*pair, strict=True))
    assert not any(torch.equal(a, b) for (a, _), (b, _) in zip(whole, served(data, epoch=1), strict=True))


def test_every_volume_is_drawn_equally_often_whatever_the_epochs_length() -> None:
    """Five volumes, epochs of 8 draws: counts differ by one at most after each of them."""
    data = Phantoms(2, **SMALL)
    data.setup()
    loader = data.train_dataloader()
    drawn: list[int] = []
    for epoch in range(10):
        loader.sampler.set_epoch(epoch)
        drawn += [index for keys in loader.loader.batch_sampler for index, _, _ in keys]
        counts = [drawn.count(number) for number in range(5)]
        assert len(drawn) == 8 * (epoch + 1)
        assert max(counts) - min(counts) <= 1


def test_where_a_loader_stands_is_what_was_consumed() -> None:
    data = Phantoms(2, **SMALL, **AUGMENTED)
    data.setup()
    loader = data.train_dataloader()
    steps = iter(loader)
    next(steps)
    assert loader.state_dict() == {"position": 1}
    list(steps)
    assert loader.state_dict() == {"position": 0}


def test_workers_do_not_change_what_is_served() -> None:
    one, two = (served(Phantoms(2, **SMALL, **AUGMENTED, num_workers=n)) for n in (0, 2))
    assert all(torch.equal(a, b) for pair in zip(one, two, strict=True) for a, b in zip(*pair, strict=True))


def test_two_processes_serve_what_one_does() -> None:
    data = Phantoms(2, **SMALL, **AUGMENTED)
    data.setup()
    patches = Patches(data.train, data.patch, data.margin, data.augment)
    keys = []
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        batches = Batches(5, 4, shuffle=True, seed=1, rank=rank, world=world)
        keys.append([key for share in batches for key in patch_keys(share, 0.33)])
    assert sorted(keys[0][:4]) == sorted(keys[1][:2] + keys[2][:2])
    assert torch.equal(patches[keys[0][0]][0], patches[keys[1][0]][0])


def test_every_scan_is_tested_on_exactly_one_process() -> None:
    data = Phantoms(2, **SMALL)
    data.setup()
    loader = data.test_dataloader()
    assert len(loader) == 3
    assert [x.shape for x, _ in loader] == [(1, 1, 32, 32, 32)] * 3
    dealt = [
        index
        for rank in (0, 1)
        for share in Batches(3, 2, shuffle=False, rank=rank, world=2)
        for index in share.indices.tolist()
    ]
    assert sorted(dealt) == [0, 1, 2]


def test_the_last_third_of_a_batch_is_forced() -> None:
    for batch, forced in ((2, 1), (3, 1), (6, 2)):
        first = patch_keys(next(iter(Batches(12, batch, shuffle=True))), 0.33)
        assert [key[2] for key in first] == [False] * (batch - forced) + [True] * forced


def test_a_forced_patch_shows_foreground_and_classes_are_drawn_alike() -> None:
    label = torch.zeros(32, 32, 32, dtype=torch.uint8)
    label[3, 4, 5], label[20:30, 20:30, 20:30] = 1, 2  # one voxel of class 1, a thousand of class 2
    volume = Volume(label[None].float(), label, places(label, 3))
    patches = Patches([volume], [8, 8, 8])
    forced = [patches[(0, seed, True)][1] for seed in range(200)]
    assert all(bool(y.any()) for y in forced)
    assert 70 < sum(bool((y == 1).any()) for y in forced) < 130
    free = [patches[(0, seed, False)][1] for seed in range(200)]
    assert sum(bool(y.any()) for y in free) < 150
    x, y = patches[(0, 1, True)]
    assert torch.equal(x[0].long(), y)  # the image was cut where the label was


def test_scans_smaller_than_the_patch_lie_in_its_middle() -> None:
    image = torch.ones(1, 4, 8, 6)
    volume = Volume(image, torch.ones(4, 8, 6, dtype=torch.uint8), {})
    x, y = Patches([volume], [8, 8, 8])[(0, 0, True)]
    assert torch.equal(x[0, 2:6, :, 1:7], image[0])
    assert float(x.sum()) == float(y.sum()) == image.numel()


def test_cut_fills_with_zeros_outside() -> None:
    x = torch.arange(1, 28.0).view(1, 3, 3, 3)
    assert torch.equal(cut(x, [0, 0, 0], [3, 3, 3]), x)
    assert torch.equal(cut(x, [-1, -1, -1], [5, 5, 5])[:, 1:4, 1:4, 1:4], x)
    assert float(cut(x, [2, 2, 2], [3, 3, 3]).sum()) == 27
    assert float(cut(x, [5, 0, 0], [2, 2, 2]).sum()) == 0
    assert float(cut(x, [-4, 0, 0], [2, 2, 2]).sum()) == 0


def test_augmentation_moves_labels_with_the_image() -> None:
    """An image that is its own label: after moving and mirroring the two still agree."""
    label = torch.zeros(44, 44, 44)
    label[10:30, 14:26, 12:34] = 1
    augment = nnunet_augmentation([32, 32, 32])
    spatial = type(augment)([op for op in augment.transforms if len(getattr(op, "keys", ())) == 2])
    changed = 0
    for seed in range(20):
        spatial.set_random_state(seed=seed)
        item = spatial({"image": label[None].clone(), "label": label[None].clone()})
        x, y = item["image"].as_tensor(), item["label"].as_tensor()
        assert x.shape == y.shape == (1, 32, 32, 32)
        assert set(y.unique().tolist()) <= {0, 1}
        assert float(((x > 0.5) != (y > 0.5)).float().mean()) < 0.01
        changed += not torch.equal(y, label[None, 6:38, 6:38, 6:38])
    assert changed > 10


def test_noise_and_low_resolution_are_as_frequent_and_as_strong_as_nnunets() -> None:
    augment, x = nnunet_augmentation([16, 16, 16]), torch.zeros(1, 16, 16, 16)
    (noise,) = (op for op in augment.transforms if type(op).__name__ == "RandGaussianNoised")
    noise.set_random_state(seed=0)
    spread = [float(noise({"image": x})["image"].std()) for _ in range(600)]
    there = [s for s in spread if s > 0]
    assert 35 < len(there) < 90
    assert 0.09 < max(there) < 0.105
    rough = torch.randn(1, 16, 16, 16)
    (low,) = (op for op in augment.transforms if type(op).__name__ == "RandSimulateLowResolutiond")
    low.set_random_state(seed=0)
    assert 45 < sum(not torch.equal(low({"image": rough})["image"], rough) for _ in range(600)) < 105


def test_generated_volumes_have_the_patches_size() -> None:
    data = Phantoms(1, **SMALL, generated=True)
    data.setup()
    assert data.spec.source == "generated"
    assert next(iter(data.train_dataloader()))[0].shape == (1, 1, 16, 16, 16)
    assert [x.shape for x, _ in data.test_dataloader()] == [(1, 1, 16, 16, 16)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labelled": ["cist"]}, "labelled='cist'"),
        ({"size": 10}, "size=10"),
        ({"patch": [8, 8]}, r"patch=\[8, 8\]"),
        ({"foreground": 2.0}, r"foreground=2\.0"),
    ],
)
def test_wrong_values_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Phantoms(2, **{**SMALL, **options})


# --- nnU-Net's folders -----------------------------------------------------------------------------------------------

PLAN: dict[str, Any] = {
    "patch": [8, 8, 8],
    "classes": ["background", "liver", "tumour"],
    "cases": 10,
    "spacing": [1.0, 2.0, 2.0],  # (z, y, x)
    "clip": [-100, 200],
    "mean": 50.0,
    "std": 25.0,
    "num_workers": 0,
    "iterations": 3,
}


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
    data = NnUNetFolder(str(folder), 2, **{**PLAN, **options})
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
    assert all(int(volume.label[tuple(at)]) == number for number, found in volume.voxels.items() for at in found)
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
    held = [NnUNetFolder(str(folder), 2, **PLAN, fold=f, seed=f).listed() for f in range(5)]
    assert sorted(name for _, test in held for name in test) == [f"case_{i}" for i in range(5)]
    assert all(not set(train) & set(test) for train, test in held)
    assert held[0] == NnUNetFolder(str(folder), 2, **PLAN, fold=5, seed=99).listed()


def test_preprocessing_is_done_once_and_depends_on_the_plan(folder: Path) -> None:
    data = opened(folder)
    file = data.folder / "case_0" / "image.npy"
    before = file.stat().st_mtime_ns
    assert opened(folder).folder == data.folder
    assert file.stat().st_mtime_ns == before
    assert opened(folder, std=30.0).folder != data.folder


MEASURED: dict[str, Any] = {"clip": None, "mean": None, "std": None}


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
    data = NnUNetFolder(str(folder), 2, **{**PLAN, **MEASURED})
    with pytest.raises(DataError, match=r"grey-\w+\.json cannot be read"):
        data.setup()
    with pytest.raises(DataError, match="expected all three or none"):
        NnUNetFolder(str(folder), 2, **{**PLAN, "mean": None})


def test_names_may_come_from_the_recipe(folder: Path) -> None:
    assert opened(folder, rename=True).spec.classes == ("background", "liver", "tumour")


def test_the_older_label_format_is_read(folder: Path) -> None:
    (folder / "dataset.json").write_text(json.dumps({"labels": {"0": "background", "1": "liver", "2": "cancer"}}))
    assert opened(folder).spec.classes[2] == "cancer"


def test_what_is_missing_or_damaged_is_named(folder: Path) -> None:
    elsewhere = NnUNetFolder(str(folder / "nowhere"), 2, **PLAN)
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
        NnUNetFolder(str(folder), 2, **PLAN)._names()


def test_declared_sizes_without_reading() -> None:
    data = NnUNetFolder("nowhere", 2, **PLAN, generated=True)
    assert data.spec.sizes == {"train": 8, "val": 0, "test": 2}
    data.setup()
    assert next(iter(data.train_dataloader()))[0].shape == (2, 1, 8, 8, 8)
