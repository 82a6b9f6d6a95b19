"""GenImage: eight generators beside ImageNet's photos, in <root>/<subset>/{train,val}/{ai,nature}/.

Training pictures are those of one subset's train folder, but for a part that stays aside; the test is on all subsets'
val folders.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms.v2.functional import pil_to_tensor

from datamodules.common.base import DataError, DataModule, Spec, generator, stream
from datamodules.common.folders import SUFFIXES, UNREADABLE
from datamodules.common.loader import WorkerLoader
from datamodules.lota.bits import FrontEnd
from datamodules.lota.subsets import GENIMAGE, Selection, Subsets

FOLDERS = {"nature": 0, "ai": 1}  # folder -> label
CLASSES = (("real", 0), ("generated", 1))
COLUMNS = ("x", "patch", "y", "subset")
TRAIN, TEST = 324_000, 100_000  # about; pictures of one subset's train folder, and of all val folders

Item = tuple[str, int, int]  # file, label, subset


def file_types(items: Sequence[Item]) -> str:
    """How many files of each type either class has: where they differ, a detector may tell files apart."""
    counts = {name: Counter(Path(file).suffix.lower() for file, y, _ in items if y == label) for name, label in CLASSES}
    lists = {name: ", ".join(f"{n} {suffix}" for suffix, n in sorted(count.items())) for name, count in counts.items()}
    return "; ".join(f"{name}: {files}" for name, files in lists.items())


class Pictures(Dataset):
    """Decodes a picture and cuts its patch; (epoch, row) fixes the crops, in the test the row alone.

    Raises:
        DataError: a file that cannot be decoded.
    """

    def __init__(
        self, root: Path, items: Sequence[Item], front_end: FrontEnd, selection: str, seed: int, *, train: bool
    ) -> None:
        self.root = root
        self.items = items
        self.front_end = front_end
        self.selection = selection
        self.seed = seed
        self.train = train

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        epoch, row = key
        name, label, subset = self.items[row]
        try:
            with Image.open(io.BytesIO((self.root / name).read_bytes())) as picture:
                pixels = pil_to_tensor(picture.convert("RGB"))
        except UNREADABLE as error:
            raise DataError(f"{self.root / name} cannot be decoded ({error}); replace or remove it") from error
        drawn = stream("crops of a picture", self.seed, epoch if self.train else -1, row)
        source = torch.Generator().manual_seed(drawn)
        places = torch.rand(1, self.front_end.draws, 2, generator=source)
        x, patch = self.front_end(pixels[None], places, self.selection)
        return x[0], patch[0], label, subset


class Random(Dataset):
    """Random bytes through the same front end, of the size that pictures are enlarged to; `length` of them."""

    def __init__(self, front_end: FrontEnd, length: int) -> None:
        self.front_end = front_end
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        source = generator("stand-in picture", *key)
        side = self.front_end.size or 256
        pixels = torch.randint(256, (1, 3, side, side), generator=source, dtype=torch.uint8)
        x, patch = self.front_end(pixels, torch.rand(1, self.front_end.draws, 2, generator=source))
        row = key[1]
        return x[0], patch[0], row % 2, row % len(GENIMAGE)


class GenImage(DataModule):
    """Pictures of GenImage at their own size, one patch each: x, patch, y, subset.

    Args:
        root: folder of the eight subsets.
        batch_size: the global batch, over all devices.
        subsets: their folders, whose train folders are trained on, and what share of these is the val split, looked at
            while training, never chosen by.
        front_end: from bytes to what networks see.
        select: which patch that is.
        num_workers: decoding processes; does not change what is served.
        seed, generated: see DataModule.
    Raises:
        DataError: folders that are missing or empty.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        subsets: Subsets,
        front_end: FrontEnd,
        select: Selection | None = None,
        num_workers: int = 8,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        self.root = Path(root)
        self.train_on = tuple(subsets.train_on)
        self.names = tuple(subsets.names)
        self.aside = subsets.aside
        self.front_end = front_end
        self.select = select or Selection()
        self.num_workers = num_workers
        self.items: dict[str, list[Item]] = {}

    def available(self) -> str:
        missing = [
            f"{name}/{split}/{folder}"
            for name in self.names
            for split in ("train", "val")
            for folder in FOLDERS
            if (split == "val" or name in self.train_on) and not (self.root / name / split / folder).is_dir()
        ]
        where = "https://github.com/GenImage-Dataset/GenImage"
        return f"{self.root} has no {missing[0]} (and {len(missing) - 1} others). GenImage: {where}" if missing else ""

    @property
    def spec(self) -> Spec:
        side = self.front_end.size or self.front_end.patch or 256
        sizes = {name: len(items) for name, items in self.items.items()}
        listing = "\n".join(item[0] for items in self.items.values() for item in items)
        formats = f"; {file_types(self.items['test'])}" if self.items else ""
        return Spec(
            name="GenImage",
            shape=(3, side, side),
            classes=("real", "generated"),
            sizes=sizes or {"train": TRAIN * max(1, len(self.train_on)), "val": 0, "test": TEST},
            mean=tuple(self.front_end.mean),
            std=tuple(self.front_end.std),
            split=f"train folders of {', '.join(self.train_on) or 'nothing'}; tested on the val folders of all subsets"
            + formats,
            source="generated" if self.generated else "real",
            where="https://github.com/GenImage-Dataset/GenImage",
            identity=hashlib.sha256(listing.encode()).hexdigest()[:12] if listing else "",
        )

    def _list(self, name: str, split: str) -> list[Item]:
        items: list[Item] = []
        for folder, label in FOLDERS.items():
            files = sorted((self.root / name / split / folder).rglob("*"))
            kept = [f.relative_to(self.root).as_posix() for f in files if f.suffix.lower() in SUFFIXES]
            if not kept:
                raise DataError(f"{self.root}/{name}/{split}/{folder} holds no picture")
            items += [(file, label, self.names.index(name)) for file in kept]
        return items

    def setup(self, stage: str | None = None) -> None:
        if self.items or self.generated:
            return
        if problem := self.available():
            raise DataError(problem)
        seen = [item for name in self.train_on for item in self._list(name, "train")]
        order = torch.randperm(len(seen), generator=generator("pictures aside", self.seed)).tolist()
        count = round(self.aside * len(seen))
        self.items = {
            "train": [seen[row] for row in order[count:]],
            "val": [seen[row] for row in order[:count]],
            "test": [item for name in self.names for item in self._list(name, "val")],
        }

    def _loader(self, split: str) -> WorkerLoader:
        train = split == "train"
        if self.generated:
            length = 2 * max(self.batch_size, 2 * len(self.names))
            return WorkerLoader(Random(self.front_end, length), self.batches(length, shuffle=train), columns=COLUMNS)
        items = self.items[split]
        dataset = Pictures(self.root, items, self.front_end, self.select.of(split), self.seed, train=train)
        batches = self.batches(len(items), shuffle=train)
        return WorkerLoader(dataset, batches, columns=COLUMNS, num_workers=self.num_workers)

    def train_dataloader(self) -> WorkerLoader:
        return self._loader("train")

    def val_dataloader(self) -> list[WorkerLoader]:
        return [self._loader("val")] if self.items.get("val") else []

    def test_dataloader(self) -> WorkerLoader:
        return self._loader("test")
