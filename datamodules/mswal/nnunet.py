"""CT scans in nnU-Net's folders, preprocessed once as its plan says and read from disk afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from scipy import ndimage
from torch import Tensor

from datamodules.common.base import DataError, Spec, generator
from datamodules.mswal.volumes import Augmentation, Volume, VolumeData, places

SPLIT_SEED = 12345  # nnU-Net's: folds are the same whatever the run's seed
KEPT = 10_000  # foreground voxels of each class that a patch may be centred on
SAMPLED = 10_000_000  # foreground voxels of the training scans whose grey values give the statistics
UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, zlib.error, ImageFileError, HeaderDataError)


def load(path: Path) -> Any:
    """A NIfTI file as MONAI's (1, x, y, z) tensor with its affine, axes in the order and direction of RAS.

    Raises DataError naming a file that is missing or cannot be read.
    """
    from monai.transforms import LoadImage, Orientation

    try:
        return Orientation("RAS", labels=None)(LoadImage(ensure_channel_first=True)(path))
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read ({str(error).splitlines()[0]}); replace it") from error


def depth_first(tensor: Any) -> np.ndarray:
    """(1, x, y, z) -> (z, y, x)."""
    return np.ascontiguousarray(np.asarray(tensor)[0].transpose(2, 1, 0))


def resample(
    image: Any,
    label: Any | None,
    spacing: Sequence[float],
    clip: Sequence[float],
    mean: float,
    std: float,
    classes: int,
) -> tuple[Tensor, Tensor | None]:
    """One scan as the network sees it: (1, D, H, W) float32 and (D, H, W) uint8.

    Grey values are clipped, shifted and scaled, then resampled with cubic splines; labels linearly, a class at a time.
    As in nnU-Net the outer faces of scan and result coincide (MONAI 1.6's Spacing would shift it by up to a voxel).

    Args:
        image, label: from `load`.
        spacing: (z, y, x) in mm.
        clip, mean, std: of the training set's foreground voxels, in HU.
        classes: C with background.
    """
    old = np.asarray(image.pixdim, dtype=float)[::-1]
    pixels = (depth_first(image).clip(clip[0], clip[1]) - np.float32(mean)) / np.float32(std)
    size = np.maximum(np.round(np.array(pixels.shape) * old / np.array(spacing)), 1)
    zoom = partial(ndimage.zoom, zoom=size / np.array(pixels.shape), mode="nearest", grid_mode=True)
    scan = torch.from_numpy(zoom(pixels, order=3))[None]
    if label is None:
        return scan, None
    given, best, labels = depth_first(label), np.full(scan.shape[1:], -np.inf), np.zeros(scan.shape[1:], np.uint8)
    for number in range(classes):
        share = zoom((given == number).astype(np.float32), order=1)
        better = share > best
        labels[better], best[better] = number, share[better]
    return scan, torch.from_numpy(labels)


def grey_values(image: Path, label: Path, count: int) -> np.ndarray:
    """`count` grey values (HU) spread evenly over the scan's foreground voxels; none if it has no foreground."""
    found = depth_first(load(image))[depth_first(load(label)) > 0]
    return found[np.linspace(0, len(found) - 1, count).round().astype(int)] if len(found) else found


def preprocess(case: str, folder: Path, image: Path, label: Path | None, **plan: Any) -> None:
    """Write image.npy, label.npy and places.npz of one case below `folder`; a folder that exists is whole."""
    target = folder / case
    if target.is_dir():
        return
    scan, drawn = load(image), None if label is None else load(label)
    if drawn is not None and drawn.shape != scan.shape:
        raise DataError(f"{label} has shape {tuple(drawn.shape[1:])}, {image} {tuple(scan.shape[1:])}")
    pixels, labels = resample(scan, drawn, **plan)
    part = folder / f"{case}.part{os.getpid()}"
    part.mkdir(parents=True, exist_ok=True)
    np.save(part / "image.npy", pixels.numpy())
    if labels is not None:
        np.save(part / "label.npy", labels.numpy())
        found = places(labels, plan["classes"], KEPT)
        stored: dict[str, Any] = {str(number): at.numpy().astype(np.int16) for number, at in found.items()}
        np.savez(part / "places.npz", **stored)
    try:
        part.rename(target)
    except OSError:  # another run was faster
        if not target.is_dir():
            raise
        shutil.rmtree(part)


class Stored(Sequence[Volume]):
    """Preprocessed cases, read from disk when indexed; a patch reads only its own part of the file."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(folders)

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: Any) -> Any:
        folder = self.folders[index]
        with np.load(folder / "places.npz") as stored:
            voxels = {int(number): torch.from_numpy(stored[number]).long() for number in sorted(stored.files)}
        image, label = (_mapped(folder / f"{name}.npy") for name in ("image", "label"))
        return Volume(image, label, voxels)

    def __iter__(self) -> Iterator[Volume]:
        return (self[index] for index in range(len(self)))


def _mapped(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path, mmap_mode="c"))  # copy on write: torch asks for writable memory


class NnUNetFolder(VolumeData):
    """A dataset in nnU-Net's raw format: dataset.json, imagesTr/<case>_0000.nii.gz, labelsTr/<case>.nii.gz and, where
    there is an annotated test set, imagesTs and labelsTs. Preprocessed cases are kept in <root>/preprocessed.

    Args:
        root: the dataset's folder.
        classes: names in label order, background first. dataset.json must agree in number; its names are used.
        rename: use the names in `classes` instead, where datasets spell the same class differently.
        cases: training scans that the published dataset has; what is there is counted.
        spacing: of the plan, see `resample`.
        clip, mean, std: see `resample`. None takes, as nnU-Net does, the 0.5 and 99.5 percentile, mean and standard
            deviation of the foreground of all scans in imagesTr, the held-out fold's too, each scan with equal weight.
        test: "fold" tests on the held-out fold of the training scans, "Ts" on imagesTs and labelsTs.
        fold: which of `folds` is held out; larger numbers start over. All folds together are a cross-validation.
        folds: how many parts; 1 trains on every scan (with test: Ts).
        others: see VolumeData.
    Raises:
        DataError: dataset.json, a scan or a label is missing or damaged, or the classes do not agree.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        patch: Sequence[int],
        classes: Sequence[str],
        cases: int,
        spacing: Sequence[float],
        clip: Sequence[float] | None = None,
        mean: float | None = None,
        std: float | None = None,
        title: str = "nnU-Net folder",
        where: str = "your own scans",
        rename: bool = False,
        test: str = "fold",
        fold: int = 0,
        folds: int = 5,
        iterations: int = 250,
        foreground: float = 0.33,
        margin: float = 1.0,
        augment: Augmentation | None = None,
        num_workers: int = 8,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        workers = 0 if generated else num_workers
        super().__init__(batch_size, patch, iterations, foreground, margin, augment, workers, seed, generated)
        if test not in ("fold", "Ts"):
            raise DataError(f"test={test!r}: expected 'fold' or 'Ts'")
        if folds < (2 if test == "fold" else 1):
            raise DataError(f"folds={folds}: testing on a fold needs at least 2, testing on Ts at least 1")
        if len({value is None for value in (clip, mean, std)}) > 1:
            raise DataError(f"clip={clip}, mean={mean}, std={std}: expected all three or none")
        self.root, self.classes, self.cases = Path(root), tuple(classes), cases
        self.spacing = list(spacing)
        self.grey: dict[str, Any] = {"clip": clip, "mean": mean, "std": std}
        self.rename = rename
        self.title, self.where, self.test, self.fold, self.folds = title, where, test, fold % folds, folds
        self._tests: list[str] = []

    def available(self) -> str:
        wanted = ["dataset.json", "imagesTr", "labelsTr", *(["imagesTs", "labelsTs"] if self.test == "Ts" else [])]
        missing = [name for name in wanted if not (self.root / name).exists()]
        return f"{self.root} has no {' and no '.join(missing)}. {self.title}: {self.where}" if missing else ""

    def declared(self) -> Spec:
        held = self.cases // self.folds if self.folds > 1 else 0
        cut = f"fold {self.fold + 1} of {self.folds}" if self.folds > 1 else "no fold"
        return Spec(
            name=self.title,
            shape=(1, *self.patch),
            classes=self.classes,
            sizes={"train": self.cases - held, "val": 0, "test": held},
            mean=(self.grey["mean"] or 0.0,),  # of the training scans, once they are read
            std=(self.grey["std"] or 1.0,),
            split=f"training scans without {cut}; tested on {'that fold' if self.test == 'fold' else 'imagesTs'}",
            where=self.where,
        )

    def listed(self) -> tuple[list[str], list[str]]:
        """Names of the cases to train and to test on."""
        if problem := self.available():
            raise DataError(problem)
        cases = self._cases("Tr")
        order = torch.randperm(len(cases), generator=generator("folds", SPLIT_SEED)).tolist()
        held = {cases[i] for i in order[self.fold :: self.folds]} if self.folds > 1 else set()
        train = [case for case in cases if case not in held]
        test = sorted(held) if self.test == "fold" else self._cases("Ts")
        if not train or not test:
            raise DataError(
                f"{self.root}: {len(train)} scans to train on, {len(test)} to test on; expected some of each"
            )
        return train, test

    def _cases(self, part: str) -> list[str]:
        """Cases with a scan; each must have its label."""
        ending = "_0000.nii.gz"
        found = sorted(path.name.removesuffix(ending) for path in (self.root / f"images{part}").glob(f"*{ending}"))
        for case in found:
            if not self._label(part, case).is_file():
                raise DataError(f"{self._label(part, case)} is missing; images{part} has its scan")
        return found

    def _label(self, part: str, case: str) -> Path:
        return self.root / f"labels{part}" / f"{case}.nii.gz"

    def _image(self, part: str, case: str) -> Path:
        return self.root / f"images{part}" / f"{case}_0000.nii.gz"

    @cached_property
    def plan(self) -> dict[str, Any]:
        """Arguments of `resample`. Raises DataError where the statistics are still to be measured."""
        grey = self.grey
        if grey["clip"] is None:
            try:
                grey = json.loads(self._statistics.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise DataError(f"{self._statistics} cannot be read; the scans were not preprocessed") from error
        return {"spacing": self.spacing, **grey, "classes": len(self.classes)}

    @property
    def _statistics(self) -> Path:
        """Where the statistics of these scans are."""
        mark = hashlib.sha256(json.dumps(self._cases("Tr")).encode()).hexdigest()[:12]
        return self.root / "preprocessed" / f"grey-{mark}.json"

    def _measure(self, run: Callable[..., Iterable[Any]]) -> None:
        """Write the statistics of the training scans. `run` is `map`, of this process or of several."""
        cases = self._cases("Tr")
        images, labels = ([of("Tr", case) for case in cases] for of in (self._image, self._label))
        sample = partial(grey_values, count=-(-SAMPLED // len(cases)))
        grey = np.concatenate(list(run(sample, images, labels)))
        if not len(grey):
            raise DataError(f"{self.root}: no training scan has a labelled voxel")
        found = {"clip": np.percentile(grey, (0.5, 99.5)).tolist(), "mean": float(grey.mean(dtype=float))}
        found["std"] = float(grey.std(dtype=float))
        self._statistics.parent.mkdir(exist_ok=True)
        part = self._statistics.with_suffix(f".part{os.getpid()}")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(self._statistics)

    @property
    def folder(self) -> Path:
        """Where preprocessed cases of this plan are."""
        mark = hashlib.sha256(json.dumps(self.plan, sort_keys=True).encode()).hexdigest()[:12]
        return self.root / "preprocessed" / mark

    def prepare_data(self) -> None:
        """Measure and preprocess what is not yet there, on `num_workers` processes."""
        if self.generated:
            return
        train, test = self.listed()
        if self.grey["clip"] is None and not self._statistics.is_file():
            if self.num_workers < 2:
                self._measure(map)
            else:
                with ProcessPoolExecutor(self.num_workers) as pool:
                    self._measure(pool.map)
        work: Callable[..., None] = partial(preprocess, **self.plan)
        todo: list[tuple[Any, ...]] = [
            (case, self.folder, self._image("Tr", case), self._label("Tr", case)) for case in train
        ]
        if self.test == "fold":
            todo += [(case, self.folder, self._image("Tr", case), self._label("Tr", case)) for case in test]
        else:
            todo += [(f"Ts_{case}", self.folder, self._image("Ts", case), None) for case in test]
        if self.num_workers < 2:
            for arguments in todo:
                work(*arguments)
            return
        with ProcessPoolExecutor(self.num_workers) as pool:
            for done in [pool.submit(work, *arguments) for arguments in todo]:
                done.result()

    def read(self) -> Spec:
        names = self._names()
        train, self._tests = self.listed()
        self.train = Stored([self.folder / case for case in train])
        for volume in self.train.folders:
            if not volume.is_dir():
                raise DataError(f"{volume} is missing: the scan was not preprocessed")
        sizes = {"train": len(train), "val": 0, "test": len(self._tests)}
        listing = json.dumps([self.plan, train, self._tests])
        identity = hashlib.sha256(listing.encode()).hexdigest()[:12]
        mean, std = (self.plan[name] for name in ("mean", "std"))
        return replace(self.declared(), classes=names, sizes=sizes, mean=(mean,), std=(std,), identity=identity)

    def _names(self) -> tuple[str, ...]:
        path = self.root / "dataset.json"
        try:
            labels = json.loads(path.read_text(encoding="utf-8"))["labels"]
            if all(str(key).isdigit() for key in labels):  # the older format has them the other way round
                labels = {name: number for number, name in labels.items()}
            numbered = {int(number): str(name) for name, number in labels.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: expected labels as names and whole numbers ({error})") from error
        if sorted(numbered) != list(range(len(self.classes))):
            given = ", ".join(f"{number} {name}" for number, name in sorted(numbered.items()))
            raise DataError(f"{path} has labels {given}; the recipe expects {len(self.classes)}, numbered from 0")
        return self.classes if self.rename else tuple(numbered[number] for number in range(len(numbered)))

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        case, fold = self._tests[index], self.test == "fold"
        label = load(self._label("Tr" if fold else "Ts", case))
        stored = self.folder / (case if fold else f"Ts_{case}")
        return _mapped(stored / "image.npy"), torch.from_numpy(depth_first(label).astype(np.uint8))
