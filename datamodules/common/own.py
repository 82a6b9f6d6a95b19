"""One's own labelled images in place of a paper's: a folder of classes, a table of files, arrays, a Hugging Face set.

All are read whole into memory, as squares of one size. The test images are the same for every seed: the user's own
test part, or a share of each class. Of the others, a seed shuffles an order in which every stretch holds the classes in
their shares; training images come from its beginning, validation images from its end.
"""

from __future__ import annotations

import csv
import os
import zipfile
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.augment import Augmentation
from datamodules.common.base import DataError, Spec, generator
from datamodules.common.folders import SUFFIXES, UNREADABLE, image_files

COLOUR = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of ImageNet's photos
GREY = (0.449,), (0.226,)
TESTED = ("test", "val")  # names of the part that is only tested on
TRAINED = "train"


@dataclass(frozen=True)
class Rows:
    """Images before they are opened.

    Attributes:
        items: what `picture` opens.
        labels: the class of each, by name.
        tested: whether each is a test image; all false where the user says nothing of a test.
    """

    items: tuple[Any, ...]
    labels: tuple[str, ...]
    tested: tuple[bool, ...]


class OwnImages(ArrayData):
    """Labelled images of a user, served as a paper's small data is.

    Args:
        batch_size: see ArrayData; so are train_size, val_size, test_size, label_noise, augment, seed, generated, views
            and rows.
        side: of the squares served, pixels: the shorter side becomes so long, and the middle is cut out.
        grey: one channel in place of three.
        test_share: of each class, where the data has no test part of its own.
        mean, std: per channel, of [0, 1] images; None takes ImageNet's.
        title: what the data is called; None takes the name of its folder or file.
    Raises:
        DataError: nothing there, a damaged file, fewer than two classes, a class of a single image.
    """

    def __init__(
        self,
        batch_size: int,
        side: int = 64,
        grey: bool = False,
        test_share: float = 0.25,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        title: str | None = None,
        train_size: int | None = None,
        val_size: int = 0,
        test_size: int | None = None,
        label_noise: float = 0.0,
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
        generated: bool = False,
        views: int = 1,
        rows: bool = False,
    ) -> None:
        sizes = (train_size, val_size, test_size)
        super().__init__(batch_size, *sizes, label_noise, augment, seed, generated, views, rows)
        if side < 1:
            raise DataError(f"side={side}: expected 1 pixel or more")
        if not 0 < test_share < 1:
            raise DataError(f"test_share={test_share}: expected a share between 0 and 1, without both")
        self.side = side
        self.grey = grey
        self.test_share = test_share
        usual = GREY if grey else COLOUR
        self.mean: tuple[float, ...] = tuple(mean) if mean is not None else usual[0]
        self.std: tuple[float, ...] = tuple(std) if std is not None else usual[1]
        channels = 1 if grey else 3
        if {len(self.mean), len(self.std)} != {channels}:
            raise DataError(f"mean and std of {len(self.mean)} and {len(self.std)} numbers: expected {channels} each")
        self.title = title
        self._parts: tuple[tuple[str, ...], Rows, Tensor] | None = None

    @abstractmethod
    def list_rows(self) -> Rows:
        """All images, before they are opened. Raises DataError that says what is missing."""

    @abstractmethod
    def picture(self, item: Any) -> Image.Image:
        """An image, opened. Raises one of folders.UNREADABLE if it is damaged."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the images are, for messages."""

    def available(self) -> str:
        try:
            self._parted()
        except DataError as error:
            return str(error)
        return ""

    def declared(self) -> Spec:
        classes, rows, tested = self._parted()
        return Spec(
            name=self.title or Path(self.place).stem,
            shape=(1 if self.grey else 3, self.side, self.side),
            classes=classes,
            sizes={"train": int((~tested).sum()), "test": int(tested.sum())},
            mean=self.mean,
            std=self.std,
            split="the test part that the data has; val from the rest by the seed"
            if any(rows.tested)
            else f"{self.test_share:.0%} of each class, the same for all seeds; val from the rest by the seed",
            where=self.place,
        )

    def smallest_class(self) -> int:
        """Training images of the smallest class, before sizes are chosen."""
        _, rows, tested = self._parted()
        labels = [label for label, test in zip(rows.labels, tested.tolist(), strict=True) if not test]
        return min(Counter(labels).values())

    def _parted(self) -> tuple[tuple[str, ...], Rows, Tensor]:
        """Class names in order, all rows, and which of them (N,) are of the test."""
        if self._parts is None:
            rows = self.list_rows()
            counts = Counter(rows.labels)
            classes = tuple(sorted(counts))
            if len(classes) < 2:
                raise DataError(f"{self.place}: {len(classes)} class(es); expected two or more")
            self._parts = classes, rows, self._tested(rows, classes)
            trained = Counter(
                label for label, test in zip(rows.labels, self._parts[2].tolist(), strict=True) if not test
            )
            for name in classes:
                if not trained[name] or trained[name] == counts[name]:
                    raise DataError(
                        f"{self.place}: class {name!r} has {trained[name]} training and {counts[name] - trained[name]} "
                        "test images; expected one or more of each"
                    )
        return self._parts

    def _tested(self, rows: Rows, classes: Sequence[str]) -> Tensor:
        if any(rows.tested):
            return torch.tensor(rows.tested)
        tested = torch.zeros(len(rows.labels), dtype=torch.bool)
        for number, name in enumerate(classes):
            own = torch.tensor([index for index, label in enumerate(rows.labels) if label == name])
            drawn = own[torch.randperm(len(own), generator=generator("own test images", number))]
            tested[drawn[: max(1, round(self.test_share * len(own)))]] = True
        return tested

    def read(self) -> tuple[Split, Split]:
        classes, rows, tested = self._parted()
        images = self._decoded(rows.items)
        labels = torch.tensor([classes.index(label) for label in rows.labels])
        return (images[~tested], labels[~tested]), (images[tested], labels[tested])

    def _decoded(self, items: Sequence[Any]) -> Tensor:
        """(N, C, side, side) uint8."""
        images = torch.empty(len(items), 1 if self.grey else 3, self.side, self.side, dtype=torch.uint8)
        for row, item in enumerate(items):
            try:
                images[row] = square(self.picture(item), self.side, grey=self.grey)
            except UNREADABLE as error:
                raise DataError(f"{self.place}: {item} is damaged: {str(error).splitlines()[0]}") from error
        return images

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        spec = self._sized(self.declared())
        if self.generated:
            self._stand_in(spec)
            return
        (images, labels), (test_images, test_labels) = self.read()
        order = balanced(labels, generator("own split", self.seed))
        parts = {"train": order[: spec.sizes["train"]], "val": order[len(order) - spec.sizes["val"] :]}
        self.splits = {name: (images[part], labels[part]) for name, part in parts.items()}

        chosen = balanced(test_labels, generator("own test subset", self.seed))[: spec.sizes["test"]].sort().values
        self.splits["test"] = (test_images[chosen], test_labels[chosen])
        self._settle(spec)
        if self.label_noise:
            source = generator("label noise", self.seed)
            noisy = torch.rand(len(self.clean_labels), generator=source) < self.label_noise
            random = torch.randint(len(spec.classes), (len(self.clean_labels),), generator=source)
            self.splits["train"] = (self.splits["train"][0], torch.where(noisy, random, self.clean_labels))


def balanced(labels: Tensor, source: torch.Generator) -> Tensor:
    """An order of all rows in which every stretch holds the classes in their shares, up to one of each.

    The k-th of a class's n images, in random order, stands at (k + 1/2) / n of the way.

    Args:
        labels: (N,) int64.
        source: of the random numbers.
    """
    place = torch.empty(len(labels), dtype=torch.float64)
    shuffled = torch.randperm(len(labels), generator=source)
    for label in labels.unique():
        own = shuffled[labels[shuffled] == label]
        place[own] = (torch.arange(len(own), dtype=torch.float64) + 0.5) / len(own)
    return shuffled[place[shuffled].argsort(stable=True)]


def square(picture: Image.Image, side: int, *, grey: bool) -> Tensor:
    """The middle of a picture, (1 or 3, side, side) uint8: scaled by Pillow so that the shorter side fits, then cut."""
    picture = picture.convert("L" if grey else "RGB")
    scale = side / min(picture.size)
    width, height = (max(side, round(length * scale)) for length in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=None)
    left, top = (width - side) // 2, (height - side) // 2
    pixels = torch.from_numpy(np.array(picture.crop((left, top, left + side, top + side))))
    return pixels.unsqueeze(0) if grey else pixels.permute(2, 0, 1)


@lru_cache(maxsize=4)
def _open_all(files: tuple[tuple[str, int], ...], side: int, grey: bool) -> Tensor:
    """Files (path, time of the last change) as (N, C, side, side) uint8; decoded once a process."""
    images = torch.empty(len(files), 1 if grey else 3, side, side, dtype=torch.uint8)
    for row, (path, _) in enumerate(files):
        try:
            with Image.open(path) as picture:
                images[row] = square(picture, side, grey=grey)
        except UNREADABLE as error:
            raise DataError(f"{path} is damaged or no image: {str(error).splitlines()[0]}") from error
    return images


class _Files(OwnImages):
    """Images that are files below `root`."""

    root: Path

    @property
    def place(self) -> str:
        return str(self.root)

    def picture(self, item: Any) -> Image.Image:
        return Image.open(self.root / item)

    def _decoded(self, items: Sequence[Any]) -> Tensor:
        paths = [self.root / item for item in items]
        return _open_all(tuple((str(path), os.stat(path).st_mtime_ns) for path in paths), self.side, self.grey).clone()


class PhotoFolder(_Files):
    """Images sorted into folders of classes: root/<class>/*.jpg, or root/{train,test}/<class>/*.jpg.

    Args:
        batch_size, options: see OwnImages.
        root: the folder.
    """

    def __init__(self, batch_size: int, root: str, **options: Any) -> None:
        super().__init__(batch_size, **options)
        self.root = Path(root)

    def list_rows(self) -> Rows:
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; expected {self.root}/<class>/*.jpg")
        names = image_files(self.root)
        if not names:
            raise DataError(f"{self.root}: no image below it; expected <class>/*{'|'.join(sorted(SUFFIXES))}")
        folders = {name.split("/")[0] for name in names}
        parted = folders <= {TRAINED, *TESTED} and TRAINED in folders
        depth = 3 if parted else 2
        for name in names:
            if name.count("/") != depth - 1:
                layout = f"{TRAINED}/<class>/<file>" if parted else "<class>/<file>"
                raise DataError(f"{self.root}: {name} stands elsewhere than its neighbours; expected {layout}")
        parts = [name.split("/") for name in names]
        return Rows(names, tuple(part[-2] for part in parts), tuple(parted and part[0] in TESTED for part in parts))


class PhotoTable(_Files):
    """Images named in a table, a CSV file with a header.

    Args:
        batch_size, options: see OwnImages.
        root: the folder that holds the table and the images.
        table: the file below it.
        file, label: columns with the image's path below root, and its class.
        split: column that says `test` (or `val`) of a test image; one that the table lacks says nothing.
    """

    def __init__(
        self,
        batch_size: int,
        root: str,
        table: str = "labels.csv",
        file: str = "file",
        label: str = "label",
        split: str = "split",
        **options: Any,
    ) -> None:
        super().__init__(batch_size, **options)
        self.root = Path(root)
        self.table, self.file, self.label, self.split = table, file, label, split

    def list_rows(self) -> Rows:
        path = self.root / self.table
        if not path.is_file():
            raise DataError(f"{path}: no such file; expected a CSV with the columns {self.file} and {self.label}")
        try:
            with path.open(newline="", encoding="utf-8") as opened:
                reader = csv.DictReader(opened)
                header = list(reader.fieldnames or [])
                lines = list(reader)
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} is not a CSV file in UTF-8: {error}") from error
        for column in (self.file, self.label):
            if column not in header:
                raise DataError(f"{path}: no column {column!r}; it has {', '.join(header)}")
        for number, line in enumerate(lines, start=2):
            self._check(path, number, line)
        return Rows(
            tuple(line[self.file] for line in lines),
            tuple(line[self.label] for line in lines),
            tuple((line.get(self.split) or "") in TESTED for line in lines),
        )

    def _check(self, path: Path, number: int, line: dict[str, str]) -> None:
        """Raises DataError for a line without file or label, and for a path that leads out of the root."""
        name = line[self.file] or ""
        if not name or not line[self.label]:
            raise DataError(f"{path}: line {number}: expected a file and a label")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise DataError(f"{path}: line {number}: {name} leads out of {self.root}")
        if not (self.root / name).is_file():
            raise DataError(f"{path}: line {number}: {self.root / name}: no such file")


class PhotoArrays(OwnImages):
    """Arrays in a NumPy archive: images (N, H, W) or (N, H, W, 3) uint8, labels (N,), and if there is a test part
    test_images and test_labels.

    Args:
        batch_size, options: see OwnImages.
        root: the folder that holds the archive.
        file: its name; it is read without pickle.
    """

    def __init__(self, batch_size: int, root: str, file: str = "images.npz", **options: Any) -> None:
        super().__init__(batch_size, **options)
        self.root = Path(root)
        self.file = file
        self._images: list[np.ndarray] = []

    @property
    def place(self) -> str:
        return str(self.root / self.file)

    def list_rows(self) -> Rows:
        path = Path(self.place)
        if not path.is_file():
            raise DataError(f"{path}: no such file; expected an archive of numpy.savez with images and labels")
        try:
            with np.load(path, allow_pickle=False) as opened:
                stored = {name: opened[name] for name in opened.files}
        except (ValueError, OSError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is no archive of plain arrays: {str(error).splitlines()[0]}") from error
        labels: list[str] = []
        tested: list[bool] = []
        for prefix in ("", "test_"):
            if prefix and f"{prefix}images" not in stored:
                continue
            images, own = (self._array(stored, f"{prefix}{name}") for name in ("images", "labels"))
            if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
                raise DataError(
                    f"{path}: {prefix}images is {images.dtype} {images.shape}; expected uint8 (N, H, W) or (N, H, W, 3)"
                )
            if own.shape != images.shape[:1]:
                raise DataError(f"{path}: {prefix}labels is {own.shape}; expected ({len(images)},)")
            self._images += list(images)
            labels += _names(own)
            tested += [bool(prefix)] * len(own)
        return Rows(tuple(range(len(labels))), tuple(labels), tuple(tested))

    def _array(self, stored: dict[str, np.ndarray], name: str) -> np.ndarray:
        if name not in stored:
            raise DataError(f"{self.place}: no array {name!r}; it has {', '.join(stored)}")
        return stored[name]

    def picture(self, item: Any) -> Image.Image:
        return Image.fromarray(self._images[item])


def _names(labels: np.ndarray) -> list[str]:
    """Labels as class names that sort as the labels do."""
    values = labels.tolist()
    if all(isinstance(value, int) for value in values):
        width = len(str(max(values, default=0)))
        return [f"{value:0{width}d}" for value in values]
    return [str(value) for value in values]


class HuggingFace(OwnImages):
    """A dataset of the Hugging Face hub, or a folder in its layout; needs the package `datasets`.

    Args:
        batch_size, options: see OwnImages.
        name: as `datasets.load_dataset` takes it.
        revision: commit or tag of the hub; a name alone may be another dataset tomorrow.
        train, test: names of its splits; test: null where it has none.
        image, label: its columns.
    """

    def __init__(
        self,
        batch_size: int,
        name: str,
        revision: str,
        train: str = "train",
        test: str | None = None,
        image: str = "image",
        label: str = "label",
        **options: Any,
    ) -> None:
        super().__init__(batch_size, **options)
        self.dataset, self.revision = name, revision
        self.train_name, self.test_name = train, test
        self.image, self.label = image, label
        self._tables: list[Any] = []

    @property
    def place(self) -> str:
        return self.dataset

    def list_rows(self) -> Rows:
        load = _load_dataset()
        items: list[tuple[int, int]] = []
        labels: list[str] = []
        tested: list[bool] = []
        self._tables = []
        for split in filter(None, (self.train_name, self.test_name)):
            try:
                table = load(self.dataset, revision=self.revision, split=split)
            except (OSError, ValueError, RuntimeError) as error:
                raise DataError(f"{self.dataset}, split {split}: {str(error).splitlines()[0]}") from error
            for column in (self.image, self.label):
                if column not in table.column_names:
                    raise DataError(f"{self.dataset}: no column {column!r}; it has {', '.join(table.column_names)}")
            names = getattr(table.features[self.label], "names", None)
            own = list(table[self.label])
            items += [(len(self._tables), row) for row in range(len(own))]
            labels += [names[value] for value in own] if names else _names(np.asarray(own))
            tested += [split == self.test_name] * len(own)
            self._tables.append(table)
        return Rows(tuple(items), tuple(labels), tuple(tested))

    def picture(self, item: Any) -> Image.Image:
        number, row = item
        picture: Image.Image = self._tables[number][row][self.image]
        return picture


def _load_dataset() -> Callable[..., Any]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError("the package datasets is not installed: .venv/bin/python -m pip install datasets") from error
    load: Callable[..., Any] = load_dataset
    return load
