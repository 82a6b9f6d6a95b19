"""ARIA's pictures: <root>/REAL/<category>/ and <root>/<generator>/{T2I,IT2I}/<category>/.

A picture and what was generated from it share a seed, which stands in the files' names. A hash deals seeds to training
(80%), validation and test (10% each), so that no real picture is in another split than its generated siblings.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from datamodules.common.base import DataError, DataModule, Spec, generator, seed_torch, stream
from datamodules.common.folders import SUFFIXES, UNREADABLE
from datamodules.common.loader import WorkerLoader

GENERATORS = ("DALL-E", "DreamStudio", "Midjourney", "StarryAI")
MODES = ("T2I", "IT2I")
CATEGORIES = ("art", "disaster", "news", "pixiv", "ins")
SOURCES = tuple(f"{name}/{mode}" for name in GENERATORS for mode in MODES)
NAMES = tuple(f"{name}_{mode}".lower().replace("-", "") for name in GENERATORS for mode in MODES)
MODE_OF = dict(zip(NAMES, MODES * len(GENERATORS), strict=True))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TOTAL = 144_175
EVERY = -1
COLUMNS = ("x", "y", "subset", "category")

Item = tuple[str, int, int, int]  # file, label, generator and mode, category


def deal(purpose: str, seed: str, category: str, ways: int) -> int:
    """A number from 0 to ways - 1 for a seed picture of a category; the same in every run."""
    digest = hashlib.blake2b(f"{purpose}{category}/{seed}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % ways


def split_of(seed: str, category: str) -> str:
    """train, val or test, in the ratio 8:1:1, for a seed picture of a category."""
    number = deal("", seed, category, 10)
    return "train" if number < 8 else ("val", "test")[number - 8]


class Pictures(Dataset):
    """Decoded pictures of an (epoch, row) pair; the pair fixes the mirror."""

    def __init__(self, root: Path, items: Sequence[Item], transform: Any, seed: int) -> None:
        self.root, self.items, self.transform, self.seed = root, items, transform, seed

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, int, int]:
        epoch, row = key
        name, *columns = self.items[row]
        try:
            with Image.open(io.BytesIO((self.root / name).read_bytes())) as picture:
                image = picture.convert("RGB")
        except UNREADABLE as error:
            raise DataError(
                f"{self.root / name} cannot be decoded ({error}); name it in `skip`, or remove it"
            ) from error
        with torch.random.fork_rng(devices=[]):
            seed_torch(stream("augmentation of a picture", self.seed, epoch, row))
            return self.transform(image), *columns  # type: ignore[return-value]


class Random(Dataset):
    """Random inputs of the declared shape; `length` of them."""

    def __init__(self, shape: tuple[int, ...], length: int) -> None:
        self.shape, self.length = shape, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, int, int]:
        source = generator("stand-in picture of ARIA", *key)
        row = key[1]
        subset = (row // 2) % len(NAMES) if row % 2 else EVERY
        return torch.randn(self.shape, generator=source), row % 2, subset, row % len(CATEGORIES)


@dataclass(frozen=True)
class TrainedOn:
    """Which pictures detectors learn from and are validated on; the test is on all.

    Attributes:
        generators: with modes, of NAMES; none for what is not trained.
        categories: None takes all.
        share: of several generators, each seed's picture by one of them alone, which a hash chooses: about as many
            generated pictures as real ones; False takes all.
    Raises:
        DataError: an unknown generator or category.
    """

    generators: Sequence[str] = ()
    categories: Sequence[str] | None = None
    share: bool = True

    def __post_init__(self) -> None:
        for key, values, known in (
            ("generators", self.generators, NAMES),
            ("categories", self.categories or (), CATEGORIES),
        ):
            if unknown := [value for value in values if value not in known]:
                raise DataError(f"{key}: {unknown[0]!r}: expected some of {', '.join(known)}")


@dataclass(frozen=True)
class Shown:
    """How a picture becomes a square.

    Attributes:
        image_size: side that pictures are squeezed to, pixels.
        matched: the same history for all: centre square, then resized, then a JPEG file of quality 90; False squeezes
            pictures as the released code does.
    """

    image_size: int = 224
    matched: bool = False


@dataclass(frozen=True)
class Files:
    """What is known of the files.

    Attributes:
        seed_pattern: regular expression for the seed in a file's stem; its first group is the seed.
        skip: files, relative to the root, that are left out because they cannot be decoded.
    Raises:
        DataError: no regular expression, or one without a group.
    """

    seed_pattern: str = "(.+)"
    skip: Sequence[str] = ("StarryAI/IT2I/ins/1489777465165169105.png",)

    def __post_init__(self) -> None:
        try:
            groups = self.pattern.groups
        except re.error as error:
            raise DataError(f"seed_pattern={self.seed_pattern!r}: {error}; expected a regular expression") from error
        if groups < 1:
            raise DataError(f"seed_pattern={self.seed_pattern!r}: expected a group, as in '(.+)'")

    @property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(self.seed_pattern)


class Aria(DataModule):
    """Real and generated pictures of ARIA: x, y, subset (generator and mode), category.

    Args:
        root: the folder.
        batch_size: the global batch, over all devices.
        trained_on: which pictures that is.
        shown: how networks see them.
        files: their names.
        num_workers: decoding processes; does not change what is served.
        seed, generated: see DataModule.
    Raises:
        DataError: folders that are missing, or names of generated pictures that do not say of which real one.
    """

    names = NAMES
    modes = MODE_OF
    subjects = CATEGORIES

    def __init__(
        self,
        root: str,
        batch_size: int,
        trained_on: TrainedOn,
        shown: Shown | None = None,
        files: Files | None = None,
        num_workers: int = 8,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        shown, files = shown or Shown(), files or Files()
        self.root = Path(root)
        self.train_on = tuple(trained_on.generators)
        self.categories = tuple(trained_on.categories or CATEGORIES)
        self.share = trained_on.share
        self.image_size = shown.image_size
        self.matched = shown.matched
        self.seed_pattern = files.pattern
        self.skip = frozenset(files.skip)
        self.num_workers = num_workers
        self.items: dict[str, list[Item]] = {}

    def available(self) -> str:
        missing = [folder for folder in ("REAL", *SOURCES) if not (self.root / folder).is_dir()]
        where = "https://github.com/AdvAIArtProject/AdvAIArt"
        return f"{self.root} has no {missing[0]} folder. ARIA: {where}" if missing else ""

    @property
    def spec(self) -> Spec:
        sizes = {name: len(items) for name, items in self.items.items()}
        listing = "\n".join(item[0] for items in self.items.values() for item in items)
        return Spec(
            name="ARIA",
            shape=self.shape,
            classes=("real", "generated"),
            sizes=sizes or self._expected(),
            mean=MEAN,
            std=STD,
            split="80, 10 and 10% by seed picture; trained on chosen generators and categories, tested on all",
            source="generated" if self.generated else "real",
            where="https://github.com/AdvAIArtProject/AdvAIArt",
            identity=hashlib.sha256(listing.encode()).hexdigest()[:12] if listing else "",
        )

    def _expected(self) -> dict[str, int]:
        """Sizes before anything is read, as if all generators and categories had as many pictures as the real ones."""
        of_each = TOTAL / (1 + len(NAMES)) * len(self.categories) / len(CATEGORIES)
        made = 1 if self.share else len(self.train_on)
        seen = int(of_each * (1 + made)) if self.train_on else TOTAL
        return {"train": seen * 8 // 10, "val": seen // 10, "test": TOTAL // 10}

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.image_size, self.image_size)

    def _list(self, folder: str, label: int, subset: int) -> list[tuple[str, Item]]:
        """(seed, picture) of one folder."""
        found = []
        for number, category in enumerate(CATEGORIES):
            for file in sorted((self.root / folder / category).rglob("*")):
                name = file.relative_to(self.root).as_posix()
                if file.suffix.lower() not in SUFFIXES or name in self.skip:
                    continue
                match = self.seed_pattern.search(file.stem)
                if match is None:
                    raise DataError(f"{self.root / name} does not match seed_pattern={self.seed_pattern.pattern!r}")
                found.append((match[1], (name, label, subset, number)))
        return found

    def setup(self, stage: str | None = None) -> None:
        if self.items or self.generated:
            return
        if problem := self.available():
            raise DataError(problem)
        real = self._list("REAL", 0, EVERY)
        fake = [item for subset, folder in enumerate(SOURCES) for item in self._list(folder, 1, subset)]
        self._check_siblings(real, fake)
        kept: dict[str, list[Item]] = {"train": [], "val": [], "test": []}
        for seed, item in real + fake:
            split = split_of(seed, CATEGORIES[item[3]])
            if split == "test" or self._seen(seed, item):
                kept[split].append(item)
        self.items = kept

    def _seen(self, seed: str, item: Item) -> bool:
        """Whether a picture of the training or validation split is served."""
        _, label, subset, number = item
        category = CATEGORIES[number]
        if category not in self.categories:
            return False
        if not label:
            return True
        if NAMES[subset] not in self.train_on:
            return False
        return not self.share or self.train_on[deal("by", seed, category, len(self.train_on))] == NAMES[subset]

    def _check_siblings(self, real: list[tuple[str, Item]], fake: list[tuple[str, Item]]) -> None:
        """Without common seeds, splits would share pictures of one content."""
        seeds = {(seed, item[3]) for seed, item in real}
        lonely = [item[0] for seed, item in fake if (seed, item[3]) not in seeds]
        if 2 * len(lonely) > len(fake):
            raise DataError(
                f"{self.root}: {len(lonely)} of {len(fake)} generated pictures, such as {lonely[0]}, share no seed "
                f"with a real one; set seed_pattern, now {self.seed_pattern.pattern!r}"
            )

    def transform(self, *, train: bool) -> v2.Compose:
        side = (self.image_size, self.image_size)
        if self.matched:
            head: list[Any] = [Square(), v2.Resize(side, antialias=True), v2.JPEG((90, 90))]
        else:
            head = [v2.Resize(side, antialias=True)]
        tail = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        return v2.Compose([*head[:2], *([v2.RandomHorizontalFlip()] if train else []), *head[2:], *tail])

    def pictures(self, split: str) -> Dataset:
        """The pictures of a split, by (epoch, row)."""
        return Pictures(self.root, self.items[split], self.transform(train=split == "train"), self.seed)

    def _loader(self, split: str) -> WorkerLoader:
        shuffle = split == "train"
        if self.generated:
            length = 2 * max(self.batch_size, 2 * len(NAMES))
            return WorkerLoader(Random(self.shape, length), self.batches(length, shuffle=shuffle), columns=COLUMNS)
        batches = self.batches(len(self.items[split]), shuffle=shuffle)
        return WorkerLoader(self.pictures(split), batches, columns=COLUMNS, num_workers=self.num_workers)

    def train_dataloader(self) -> WorkerLoader:
        return self._loader("train")

    def val_dataloader(self) -> list[WorkerLoader]:
        """Of the training sources alone: a detector is never chosen on what it is tested on."""
        return [self._loader("val")] if self.train_on and (self.generated or self.items["val"]) else []

    def test_dataloader(self) -> WorkerLoader:
        return self._loader("test")


class Square:
    """The largest centred square of a PIL picture."""

    def __call__(self, image: Image.Image) -> Image.Image:
        side = min(image.size)
        left, top = ((length - side) // 2 for length in image.size)
        return image.crop((left, top, left + side, top + side))
