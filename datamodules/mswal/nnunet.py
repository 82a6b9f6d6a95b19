"""CT scans in nnU-Net's folders, preprocessed once as its plan says and read from disk afterwards."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.common.base import DataError, Spec, generator
from datamodules.mswal.contents import combine, read_contents
from datamodules.mswal.preprocessing import Preprocessing, depth_first, grey_values, load, maker, preprocess
from datamodules.mswal.volumes import PatchSampling, Volume, VolumeData

SPLIT_SEED = 12345  # nnU-Net's: folds are the same whatever the run's seed
SAMPLED = 10_000_000  # foreground voxels of the training scans whose grey values give the statistics


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


@dataclass(frozen=True)
class Dataset:
    """What is known of a dataset before its folder is read.

    Attributes:
        classes: names in label order, background first. dataset.json must agree in number; its names are used.
        cases: training scans that the published dataset has; what is there is counted.
        title: of the dataset.
        where: to get it.
        rename: use the names in `classes` instead, where datasets spell the same class differently.
    """

    classes: Sequence[str]
    cases: int
    title: str = "nnU-Net folder"
    where: str = "your own scans"
    rename: bool = False


@dataclass(frozen=True)
class Split:
    """Which scans are tested on.

    Attributes:
        test: "fold" tests on the held-out fold of the training scans, "Ts" on imagesTs and labelsTs.
        fold: which of `folds` is held out; larger numbers start over. All folds together are a cross-validation.
        folds: how many parts; 1 trains on every scan (with test: Ts).
    Raises:
        DataError: there is no such test, or nothing to test on.
    """

    test: str = "fold"
    fold: int = 0
    folds: int = 5

    def __post_init__(self) -> None:
        if self.test not in ("fold", "Ts"):
            raise DataError(f"test={self.test!r}: expected 'fold' or 'Ts'")
        if self.folds < (2 if self.test == "fold" else 1):
            raise DataError(f"folds={self.folds}: testing on a fold needs at least 2, testing on Ts at least 1")


class NnUNetFolder(VolumeData):
    """A dataset in nnU-Net's raw format: dataset.json, imagesTr/<case>_0000.nii.gz, labelsTr/<case>.nii.gz and, where
    there is an annotated test set, imagesTs and labelsTs. Preprocessed cases are kept in <root>/preprocessed, by plan,
    code, name and content of scan and label: a case that is replaced is preprocessed anew.

    Args:
        root: the dataset's folder.
        dataset: its classes, size and name.
        preprocessing: spacing and grey values of the plan.
        split: which scans are tested on.
        others: see VolumeData.
    Raises:
        DataError: dataset.json, a scan or a label is missing or damaged, or the classes do not agree.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        patches: PatchSampling,
        dataset: Dataset,
        preprocessing: Preprocessing,
        split: Split,
        num_workers: int = 8,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, patches, 0 if generated else num_workers, seed, generated)
        self.root = Path(root)
        self.dataset = dataset
        self.preprocessing = preprocessing
        self.split = split
        self.classes = tuple(dataset.classes)
        self.fold = split.fold % split.folds
        self._tests: list[str] = []

    def available(self) -> str:
        wanted = [
            "dataset.json",
            "imagesTr",
            "labelsTr",
            *(["imagesTs", "labelsTs"] if self.split.test == "Ts" else []),
        ]
        missing = [name for name in wanted if not (self.root / name).exists()]
        return (
            f"{self.root} has no {' and no '.join(missing)}. {self.dataset.title}: {self.dataset.where}"
            if missing
            else ""
        )

    def declared(self) -> Spec:
        cases = self.dataset.cases
        folds = self.split.folds
        held = cases // folds if folds > 1 else 0
        left_out = f"fold {self.fold + 1} of {folds}" if folds > 1 else "no fold"
        tested = "that fold" if self.split.test == "fold" else "imagesTs"
        return Spec(
            name=self.dataset.title,
            shape=(1, *self.patch),
            classes=self.classes,
            sizes={"train": cases - held, "val": 0, "test": held},
            mean=(self.preprocessing.mean or 0.0,),  # of the training scans, once they are read
            std=(self.preprocessing.std or 1.0,),
            split=f"training scans without {left_out}; tested on {tested}",
            where=self.dataset.where,
        )

    def listed(self) -> tuple[list[str], list[str]]:
        """Names of the cases to train and to test on."""
        if problem := self.available():
            raise DataError(problem)
        cases = self._cases("Tr")
        order = torch.randperm(len(cases), generator=generator("folds", SPLIT_SEED)).tolist()
        folds = self.split.folds
        held = {cases[i] for i in order[self.fold :: folds]} if folds > 1 else set()
        train = [case for case in cases if case not in held]
        test = sorted(held) if self.split.test == "fold" else self._cases("Ts")
        if not train or not test:
            raise DataError(
                f"{self.root}: {len(train)} scans to train on, {len(test)} to test on; expected some of each"
            )
        return train, test

    def _cases(self, part: str) -> list[str]:
        """Cases with a scan; each must have its label."""
        ending = "_0000.nii.gz"
        cases = sorted(path.name.removesuffix(ending) for path in (self.root / f"images{part}").glob(f"*{ending}"))
        for case in cases:
            if not self._label(part, case).is_file():
                raise DataError(f"{self._label(part, case)} is missing; images{part} has its scan")
        return cases

    def _label(self, part: str, case: str) -> Path:
        return self.root / f"labels{part}" / f"{case}.nii.gz"

    def _image(self, part: str, case: str) -> Path:
        return self.root / f"images{part}" / f"{case}_0000.nii.gz"

    @cached_property
    def contents(self) -> dict[tuple[str, str], str]:
        """(part, case) -> content of its scan and label together, of all cases that this split needs."""
        parts = ["Tr", *(["Ts"] if self.split.test == "Ts" else [])]
        places = [(part, case) for part in parts for case in self._cases(part)]
        files = [file for place in places for file in (self._image(*place), self._label(*place))]
        marks = read_contents(files, self.root / "preprocessed" / "contents.json", self.num_workers)
        return {place: combine(marks[self._image(*place)], marks[self._label(*place)]) for place in places}

    def _stored(self, part: str, case: str) -> str:
        """Name of the folder of a preprocessed case; test scans are stored without their labels."""
        return f"{'Ts_' if part == 'Ts' else ''}{case}-{self.contents[part, case]}"

    @cached_property
    def plan(self) -> dict[str, Any]:
        """Arguments of `resample`. Raises DataError where the statistics are still to be measured."""
        plan = self.preprocessing
        grey: dict[str, Any] = {"clip": plan.clip, "mean": plan.mean, "std": plan.std}
        if plan.clip is None:
            try:
                grey = json.loads(self._statistics.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise DataError(f"{self._statistics} cannot be read; the scans were not preprocessed") from error
        return {"spacing": list(plan.spacing), **grey, "classes": len(self.classes)}

    @property
    def _statistics(self) -> Path:
        """Where the statistics of these scans are."""
        mark = combine(maker(), *(f"{case} {self.contents['Tr', case]}" for case in self._cases("Tr")))
        return self.root / "preprocessed" / f"grey-{mark}.json"

    def _measure(self, run: Callable[..., Iterable[Any]]) -> None:
        """Write the statistics of the training scans. `run` is `map`, of this process or of several."""
        cases = self._cases("Tr")
        images, labels = ([of("Tr", case) for case in cases] for of in (self._image, self._label))
        sample = partial(grey_values, count=-(-SAMPLED // len(cases)))
        grey = np.concatenate(list(run(sample, images, labels)))
        if not len(grey):
            raise DataError(f"{self.root}: no training scan has a labelled voxel")
        clip = np.percentile(grey, (0.5, 99.5)).tolist()
        statistics = {"clip": clip, "mean": float(grey.mean(dtype=float)), "std": float(grey.std(dtype=float))}
        self._statistics.parent.mkdir(exist_ok=True)
        part = self._statistics.with_suffix(f".part{os.getpid()}")
        part.write_text(json.dumps(statistics), encoding="utf-8")
        part.replace(self._statistics)

    @property
    def folder(self) -> Path:
        """Where cases of this plan are, preprocessed by the present code."""
        mark = combine(maker(), json.dumps(self.plan, sort_keys=True))
        return self.root / "preprocessed" / mark

    def prepare_data(self) -> None:
        """Measure and preprocess what is not yet there, on `num_workers` processes."""
        if self.generated:
            return
        train, test = self.listed()
        self._names()  # says at once where the labels are others than the recipe's
        if self.preprocessing.clip is None and not self._statistics.is_file():
            if self.num_workers < 2:
                self._measure(map)
            else:
                with ProcessPoolExecutor(self.num_workers) as pool:
                    self._measure(pool.map)
        work: Callable[..., None] = partial(preprocess, **self.plan)
        todo: list[tuple[Any, ...]] = [
            (self._stored("Tr", case), self.folder, self._image("Tr", case), self._label("Tr", case))
            for case in [*train, *(test if self.split.test == "fold" else [])]
        ]
        if self.split.test == "Ts":
            todo += [(self._stored("Ts", case), self.folder, self._image("Ts", case), None) for case in test]
        if self.num_workers < 2:
            for arguments in todo:
                work(*arguments)
            return
        with ProcessPoolExecutor(self.num_workers) as pool:
            for done in [pool.submit(work, *arguments) for arguments in todo]:
                done.result()

    def read(self) -> Spec:
        class_names = self._names()
        train, tests = self.listed()
        self._tests = tests
        self.train = Stored([self.folder / self._stored("Tr", case) for case in train])
        for volume in self.train.folders:
            if not volume.is_dir():
                raise DataError(f"{volume} is missing: the scan was not preprocessed")
        sizes = {"train": len(train), "val": 0, "test": len(self._tests)}
        part = "Tr" if self.split.test == "fold" else "Ts"
        contents = [[(name, self.contents[of, name]) for name in names] for of, names in (("Tr", train), (part, tests))]
        listing = json.dumps([self.plan, *contents])
        identity = hashlib.sha256(listing.encode()).hexdigest()[:12]
        mean, std = (self.plan[name] for name in ("mean", "std"))
        return replace(self.declared(), classes=class_names, sizes=sizes, mean=(mean,), std=(std,), identity=identity)

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
            listing = ", ".join(f"{number} {name}" for number, name in sorted(numbered.items()))
            raise DataError(f"{path} has labels {listing}; the recipe expects {len(self.classes)}, numbered from 0")
        return self.classes if self.dataset.rename else tuple(numbered[number] for number in range(len(numbered)))

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        case = self._tests[index]
        fold = self.split.test == "fold"
        label = load(self._label("Tr" if fold else "Ts", case))
        stored = self.folder / self._stored("Tr" if fold else "Ts", case)
        return _mapped(stored / "image.npy"), torch.from_numpy(depth_first(label).astype(np.uint8))
