"""Medical photos with concept labels and boxes, from a folder of images and two tables.

    <root>/images/...    the images; any folders below
    <root>/images.csv    file,split,class,<concept>,<concept>,...
                         one line an image; file below images/, split train or test, class a name, and 1 or 0 for each
                         concept, whose names are the header's
    <root>/boxes.csv     file,concept,x1,y1,x2,y2
                         one line a box, in pixels of the file, ends exclusive; concept is a column of images.csv, or
                         `negative` for a thing that should not count

Without boxes.csv nothing can point at a box: the pointing game then has no pairs. tables.py makes both tables from what
is released, `COLLECTIONS` says from which files.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset
from torchvision.transforms import InterpolationMode, v2

from datamodules.common.base import DataError, DataModule, Spec, generator, seed_torch, stream
from datamodules.common.folders import UNREADABLE
from datamodules.common.loader import WorkerLoader
from datamodules.csr.findings import NO_BOX

NEGATIVE = "negative"
COLUMNS = ("x", "y", "concepts")
TRAIN_COLUMNS = (*COLUMNS, "row")
TEST_COLUMNS = (*COLUMNS, "boxes", "shows", "in_test")
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
HEADER = ("file", "split", "class")
BOX_HEADER = ("file", "concept", "x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Collection:
    """What is known of a data set before it is there: title, classes, concepts, images, where to get it."""

    title: str
    classes: int
    concepts: int
    train: int
    test: int
    where: str


COLLECTIONS = {
    "isic2017": Collection(
        "ISIC-2017",
        3,
        4,
        2000,
        600,
        "https://challenge.isic-archive.com/data: pictures and superpixels of Training and Test_v2 below images/, "
        "Part 2's features and Part 3's classes below labels/; then python -m datamodules.csr.tables isic2017 <root>",
    ),
    "tbx11k": Collection(
        "TBX11K",
        3,
        3,
        6600,
        1800,
        "https://mmcheng.net/tb: imgs/ as images/, lists/ and annotations/json/ below labels/; then python -m "
        "datamodules.csr.tables tbx11k <root>. Its concepts are the three kinds of tuberculosis that have boxes",
    ),
    "tbx11k_14": Collection(
        "TBX11K with 14 concepts",
        3,
        14,
        6600,
        1800,
        "https://mmcheng.net/tb, and 14 concepts of one's own: no file has those of the paper",
    ),
    "vindr_cxr": Collection(
        "VinDr-CXR",
        6,
        14,
        15000,
        3000,
        "https://physionet.org/content/vindr-cxr: radiographs as images/{train,test}/<image_id>.png at their DICOM's "
        "size, annotations/ below labels/; then python -m datamodules.csr.tables vindr_cxr <root>",
    ),
}


@dataclass(frozen=True)
class Finding:
    """An image: its file, class number, concepts (K) of 0 and 1, and boxes with what they show."""

    file: str
    label: int
    concepts: tuple[int, ...]
    boxes: tuple[tuple[float, float, float, float], ...]
    shows: tuple[int, ...]


@dataclass(frozen=True)
class Listing:
    """The tables of a folder: class and concept names, and images by split."""

    classes: tuple[str, ...]
    concepts: tuple[str, ...]
    splits: dict[str, list[Finding]]


def read_listing(root: Path) -> Listing:
    """Read both tables.

    Raises:
        DataError: a table is missing, or a line of it makes no sense; the line is named.
    """
    header, rows = _table(root / "images.csv", HEADER)
    concepts = tuple(header[len(HEADER) :])
    if not concepts or NEGATIVE in concepts:
        raise DataError(f"{root / 'images.csv'}: expected concepts after file,split,class, none of them {NEGATIVE!r}")
    for number, row in enumerate(rows, start=2):
        if row[1] not in ("train", "test") or any(value not in ("0", "1") for value in row[3:]):
            raise DataError(f"{root / 'images.csv'}, line {number}: expected split train or test and concepts 0 or 1")
    classes = tuple(sorted({row[2] for row in rows}))

    boxes = _read_boxes(root / "boxes.csv", {row[0] for row in rows}, (*concepts, NEGATIVE))
    splits: dict[str, list[Finding]] = {"train": [], "test": []}
    for file, split, label, *present in rows:
        own = boxes.get(file, [])
        shown = tuple(int(value) for value in present)
        finding = Finding(file, classes.index(label), shown, tuple(b for _, b in own), tuple(k for k, _ in own))
        splits[split].append(finding)
    return Listing(classes, concepts, splits)


Box = tuple[float, float, float, float]


def _read_boxes(path: Path, files: set[str], names: Sequence[str]) -> dict[str, list[tuple[int, Box]]]:
    """file -> what its boxes show and where; nothing without a table. Raises DataError."""
    boxes: dict[str, list[tuple[int, Box]]] = {}
    for number, row in enumerate(_table(path, BOX_HEADER)[1] if path.is_file() else [], start=2):
        try:
            x1, y1, x2, y2 = (float(value) for value in row[2:])
            right = x1 < x2 and y1 < y2 and row[0] in files and row[1] in names
        except ValueError:
            right = False
        if not right:
            raise DataError(
                f"{path}, line {number}: {','.join(row)!r}: expected a known file and concept, x1 < x2, y1 < y2"
            )
        boxes.setdefault(row[0], []).append((names.index(row[1]), (x1, y1, x2, y2)))
    return boxes


def _table(path: Path, expected: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and lines. Raises DataError."""
    try:
        with path.open(encoding="utf-8", newline="") as text:
            header, *rows = [row for row in csv.reader(text) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error})") from error
    if tuple(header[: len(expected)]) != tuple(expected):
        raise DataError(
            f"{path}: the first line is {','.join(header)!r:.200}; expected it to begin {','.join(expected)}"
        )
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DataError(f"{path}, line {number}: {len(row)} values where the first line names {len(header)}")
    return header, rows


class Photos(Dataset):
    """One split as samples of TRAIN_COLUMNS, or of TEST_COLUMNS where boxes are asked for; squashed to a square.

    Args:
        root: the folder.
        items: its images.
        side: of the square, pixels.
        room: boxes of a sample, R.
        in_test: None without boxes; else 1 for test images.
        mirror: half of the samples are mirrored; for training alone, since boxes are not.
        seed: of mirroring.
    """

    def __init__(
        self, root: Path, items: list[Finding], side: int, room: int, in_test: int | None, mirror: bool, seed: int
    ) -> None:
        self.root, self.items, self.side, self.room = root, items, side, room
        self.in_test, self.mirror, self.seed = in_test, mirror, seed
        steps = [v2.Resize((side, side), interpolation=InterpolationMode.BILINEAR), v2.PILToTensor()]
        self.transform = v2.Compose(
            [*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(list(MEAN), list(STD))]
        )

    def __len__(self) -> int:
        return len(self.items)

    def image(self, item: int) -> tuple[Tensor, tuple[int, int]]:
        """(3, S, S) and the file's width and height. Raises DataError naming a file that cannot be decoded."""
        path = self.root / "images" / self.items[item].file
        try:
            with Image.open(path) as picture:
                return self.transform(picture.convert("RGB")), picture.size
        except UNREADABLE as error:
            raise DataError(f"{path} cannot be decoded ({error}); replace it") from error

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        epoch, item = key
        finding = self.items[item]
        x, (width, height) = self.image(item)
        concepts = torch.tensor(finding.concepts, dtype=torch.float32)
        if self.in_test is None:
            with torch.random.fork_rng(devices=[]):
                seed_torch(stream("mirrored photo", self.seed, epoch, item))
                if self.mirror and torch.rand(()) < 0.5:
                    x = x.flip(2)
            return x, finding.label, concepts, item

        boxes = torch.zeros(self.room, 4)
        shows = torch.full((self.room,), NO_BOX)
        scale = torch.tensor([self.side / width, self.side / height] * 2)
        for number, (box, concept) in enumerate(zip(finding.boxes, finding.shows, strict=True)):
            boxes[number] = torch.tensor(box) * scale
            shows[number] = concept
        return x, finding.label, concepts, boxes, shows, self.in_test


class EpochConcat(ConcatDataset):
    """Datasets one after the other, by (epoch, row)."""

    def __getitem__(self, key: tuple[int, int]) -> Any:  # type: ignore[override]
        epoch, row = key
        first = self.datasets[0]
        split, item = (first, row) if row < len(first) else (self.datasets[1], row - len(first))  # type: ignore[arg-type]
        return split[(epoch, item)]


class StandIns(Dataset):
    """Random samples of the declared shapes, for dry runs: each with a box for each concept that it has."""

    def __init__(self, length: int, collection: Collection, side: int, tested: bool) -> None:
        self.length, self.collection, self.side, self.tested = length, collection, side, tested

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        source = generator("stand-in finding", *key)
        x = torch.randn(3, self.side, self.side, generator=source)
        label = int(torch.randint(self.collection.classes, (), generator=source))
        concepts = (torch.rand(self.collection.concepts, generator=source) < 0.5).float()
        concepts[key[1] % len(concepts)] = 1
        if not self.tested:
            return x, label, concepts, key[1]
        corner = torch.rand(len(concepts), 2, generator=source) * self.side / 2
        shows = torch.where(concepts > 0, torch.arange(len(concepts)), NO_BOX)
        return x, label, concepts, torch.cat([corner, corner + self.side / 4], 1), shows, key[1] % 2


class FindingsFolder(DataModule):
    """Photos with concepts from a folder as this file describes it. Batches as of findings.py.

    Args:
        root: the folder.
        batch_size: the global batch, over all devices.
        collection: which data set, one of COLLECTIONS.
        image_size: side of the square that a photo is squashed to, pixels.
        everything: test on the training images too, which come first.
        mirror: mirror half of the training images.
        num_workers: decoding processes; does not change what is served.
        seed, generated: see DataModule.
    Raises:
        DataError: no such collection, or data that is missing, damaged or of other classes and concepts.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        collection: str = "isic2017",
        image_size: int = 224,
        everything: bool = False,
        mirror: bool = True,
        num_workers: int = 8,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        if collection not in COLLECTIONS:
            raise DataError(f"collection={collection!r}: expected one of {', '.join(COLLECTIONS)}")
        self.root, self.collection, self.image_size = Path(root), COLLECTIONS[collection], image_size
        self.everything, self.mirror, self.num_workers = everything, mirror, num_workers
        self.listing: Listing | None = None
        self._spec: Spec | None = None

    @property
    def concepts(self) -> tuple[str, ...]:
        if self.listing is not None:
            return self.listing.concepts
        return tuple(f"concept {number}" for number in range(self.collection.concepts))

    @property
    def tested(self) -> tuple[str, ...]:
        """Splits that the test goes through."""
        return ("train", "test") if self.everything else ("test",)

    @property
    def spec(self) -> Spec:
        there = self._spec or self.declared()
        return replace(there, sizes={**there.sizes, "test": sum(there.sizes[name] for name in self.tested)})

    def declared(self) -> Spec:
        """The spec before anything is read."""
        return Spec(
            name=self.collection.title,
            shape=(3, self.image_size, self.image_size),
            classes=tuple(map(str, range(self.collection.classes))),
            sizes={"train": self.collection.train, "val": 0, "test": self.collection.test},
            mean=MEAN,
            std=STD,
            split="as images.csv says",
            where=self.collection.where,
        )

    def available(self) -> str:
        path = self.root / "images.csv"
        problem = f"{path} is missing: tables as datamodules/csr/photos.py describes. {self.collection.where}"
        return "" if path.is_file() else problem

    def setup(self, stage: str | None = None) -> None:
        if self._spec is not None:
            return
        if self.generated:
            self._spec = replace(self.declared(), source="generated")
            return
        if problem := self.available():
            raise DataError(problem)
        listing = read_listing(self.root)
        for what, names, expected in (
            ("classes", listing.classes, self.collection.classes),
            ("concepts", listing.concepts, self.collection.concepts),
        ):
            if len(names) != expected:
                raise DataError(f"{self.root / 'images.csv'} has {len(names)} {what}; expected {expected}")
        self.listing = listing
        sizes = {"val": 0} | {name: len(items) for name, items in listing.splits.items()}
        identity = hashlib.sha256(repr(listing).encode()).hexdigest()[:12]
        self._spec = replace(self.declared(), classes=listing.classes, sizes=sizes, identity=identity)

    def dataset(self, split: str, *, tested: bool) -> Dataset:
        if self.generated:
            return StandIns(2 * self.batch_size, self.collection, self.image_size, tested)
        assert self.listing is not None
        every = [item for items in self.listing.splits.values() for item in items]
        room = max(1, *(len(item.boxes) for item in every))
        in_test = int(split == "test") if tested else None
        mirror = self.mirror and not tested
        return Photos(self.root, self.listing.splits[split], self.image_size, room, in_test, mirror, self.seed)

    def _loader(self, dataset: Any, columns: tuple[str, ...], *, shuffle: bool) -> WorkerLoader:
        workers = 0 if self.generated else self.num_workers
        batches = self.batches(len(dataset), shuffle=shuffle)
        return WorkerLoader(dataset, batches, columns=columns, num_workers=workers)

    def train_dataloader(self) -> WorkerLoader:
        return self._loader(self.dataset("train", tested=False), TRAIN_COLUMNS, shuffle=True)

    def val_dataloader(self) -> list[WorkerLoader]:
        return []

    def test_dataloader(self) -> WorkerLoader:
        splits = [self.dataset(name, tested=True) for name in self.tested]
        dataset = splits[0] if len(splits) == 1 or self.generated else EpochConcat(splits)
        return self._loader(dataset, TEST_COLUMNS, shuffle=False)

    def training_images(self, rows: Sequence[int]) -> Tensor:
        """Training images as the network sees them: (n, 3, S, S)."""
        self.setup()
        photos: Any = self.dataset("train", tested=False)
        return torch.stack([photos.image(row)[0] for row in rows])
