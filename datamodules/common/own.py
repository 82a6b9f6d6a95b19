"""Where one's own labelled images lie: in folders of classes, in a table of files, in arrays, in a Hugging Face set.

How they are cut, shared out and served: see own_images.
"""

from __future__ import annotations

import csv
import os
import zipfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.common.base import DataError
from datamodules.common.folders import SUFFIXES, UNREADABLE, image_files
from datamodules.common.own_images import OwnImages, Rows, square

TESTED = ("test", "val")  # names of the part that is only tested on
TRAINED = "train"


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
        self._images = []
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
