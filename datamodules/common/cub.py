"""CUB-200-2011 by its official lists: birds in their boxes or whole photos, plain, distorted or augmented."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as V

from datamodules.common.base import DataError, DataModule, Spec, generator, seed_torch, stream
from datamodules.common.distortions import KINDS, distort
from datamodules.common.folders import UNREADABLE
from datamodules.common.loader import WorkerLoader

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SIZES = {"train": 5994, "val": 0, "test": 5794}
CLASSES = 200
TABLES = ("images", "image_class_labels", "train_test_split", "bounding_boxes")


@dataclass(frozen=True)
class Bird:
    """One photo: its file below `images`, its class from 0, and the bird's box x1, y1, x2, y2 in pixels."""

    file: str
    label: int
    box: tuple[float, float, float, float]


def read_listing(root: Path) -> dict[str, list[Bird]]:
    """Training and test photos in the order of the official lists.

    Raises:
        DataError: a list is missing or the lists do not fit together.
    """
    birds: dict[str, list[Bird]] = {"train": [], "test": []}
    try:
        tables = [(root / f"{name}.txt").read_text(encoding="utf-8").split("\n") for name in TABLES]
        for lines in zip(*([line.split() for line in table if line] for table in tables), strict=True):
            (_, file), (_, label), (_, train), (_, *numbers) = lines
            x, y, w, h = map(float, numbers)
            birds["train" if train == "1" else "test"].append(Bird(file, int(label) - 1, (x, y, x + w, y + h)))
    except (OSError, ValueError) as error:
        raise DataError(f"{root}: the lists of CUB-200-2011 cannot be read ({error})") from error
    return birds


class BirdPhotos:
    """Photo number i as (PIL image, label): cut to the bird's box, or whole.

    Raises DataError naming a photo that cannot be decoded.
    """

    def __init__(self, root: Path, birds: Sequence[Bird], whole: bool = False) -> None:
        self.root, self.birds, self.whole = root, birds, whole

    def __len__(self) -> int:
        return len(self.birds)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        bird = self.birds[row]
        path = self.root / "images" / bird.file
        try:
            with Image.open(path) as picture:
                photo = picture.convert("RGB")
                if not self.whole:
                    photo = photo.crop(tuple(round(side) for side in bird.box))  # type: ignore[arg-type]
                return photo, bird.label
        except UNREADABLE as error:
            raise DataError(f"{path} cannot be decoded ({error}); replace it") from error


class Labelled(Protocol):
    """Photos by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> tuple[Image.Image, int]: ...


def to_square(pixels: Tensor, side: int) -> Tensor:
    """uint8 (..., 3, H, W) -> squashed to a square and normalised (..., 3, S, S)."""
    resized = V.resize(pixels, [side, side], InterpolationMode.BILINEAR, antialias=True)
    return V.normalize(resized.float() / 255, list(MEAN), list(STD))


@dataclass(frozen=True)
class Variation:
    """How training photos are varied: by distorted copies in their place, or anew in every epoch.

    Attributes:
        copies: of each photo, as many of each kind; 0 serves the photo itself. What a copy looks like depends on its
            number and the seed alone, as copies on a disc would.
        kinds: of distortion, see distort.
        augment: PIL image -> PIL image, anew in every epoch.
    Raises:
        DataError: no such distortion, or copies that cannot be shared out.
    """

    copies: int = 0
    kinds: Sequence[str] = KINDS
    augment: Callable[[Image.Image], Image.Image] | None = None

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise DataError(f"kinds: {kind!r}: expected one of {', '.join(KINDS)}")
        if self.copies < 0 or (self.copies and (not self.kinds or self.copies % len(self.kinds))):
            raise DataError(f"copies={self.copies}: expected 0 or a multiple of {len(self.kinds)}")

    @property
    def factor(self) -> int:
        """How many images come of a photo."""
        return max(1, self.copies)

    def kind(self, item: int) -> str:
        """Which distortion makes copy number `item`, counted over all photos."""
        return self.kinds[item % self.copies * len(self.kinds) // self.copies]


class Squares(Dataset):
    """Photos as networks see them: (x (3, S, S), label, number of the photo) for an (epoch, item) pair.

    Args:
        photos: see Labelled.
        side: of the square, pixels.
        variation: of the photos; None serves them as they are.
        seed: of copies and augmentation.
    """

    def __init__(self, photos: Labelled, side: int, variation: Variation | None = None, seed: int = 0) -> None:
        self.photos = photos
        self.side = side
        self.variation = variation or Variation()
        self.seed = seed

    def __len__(self) -> int:
        return len(self.photos) * self.variation.factor

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        epoch, item = key
        row = item // self.variation.factor
        image, label = self.photos[row]
        with torch.random.fork_rng(devices=[]):
            if self.variation.copies:
                seed_torch(stream("distorted copy", self.seed, item))
                image = distort(image, self.variation.kind(item))
            if self.variation.augment is not None:
                seed_torch(stream("augmentation of a photo", self.seed, epoch, item))
                image = self.variation.augment(image)
        return to_square(V.pil_to_tensor(image), self.side), label, row


class StandIns(Dataset):
    """Random samples of the declared shapes, for dry runs: x, label, number.

    Args:
        length: how many.
        shape: of x.
        classes: how many labels there are.
    """

    def __init__(self, length: int, shape: tuple[int, ...], classes: int = CLASSES) -> None:
        self.length, self.shape, self.classes = length, shape, classes

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        source = generator("stand-in bird", *key)
        label = int(torch.randint(self.classes, (), generator=source))
        return torch.randn(self.shape, generator=source), label, key[1]


class Birds(DataModule):
    """CUB-200-2011, squashed to a square. Batches are (x, y, row), row of the photo.

    Args:
        root: the unpacked archive.
        batch_size: the global batch, over all devices.
        image_size: side of the square, pixels.
        variation: of training photos; None serves them as they are.
        whole: whole photos instead of the birds in their boxes.
        num_workers: decoding processes; does not change what is served.
        seed, generated: see DataModule.
    Raises:
        DataError: data that is missing or damaged.
    """

    columns: tuple[str, ...] = ("x", "y", "row")

    def __init__(
        self,
        root: str,
        batch_size: int,
        image_size: int = 224,
        variation: Variation | None = None,
        whole: bool = False,
        num_workers: int = 8,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        self.root = Path(root)
        self.image_size = image_size
        self.variation = variation or Variation()
        self.whole = whole
        self.num_workers = num_workers
        self.birds: dict[str, list[Bird]] = {}
        self._spec: Spec | None = None

    @property
    def spec(self) -> Spec:
        return self._spec or self.declared()

    def declared(self) -> Spec:
        """The spec before anything is read."""
        return Spec(
            name=f"CUB-200-2011, {'whole' if self.whole else 'cropped'}",
            shape=(3, self.image_size, self.image_size),
            classes=tuple(map(str, range(CLASSES))),
            sizes={**SIZES, "train": SIZES["train"] * self.variation.factor},
            mean=MEAN,
            std=STD,
            split=f"official; {self.variation.copies or 'no'} distorted copies of each training photo",
            where="https://www.vision.caltech.edu/datasets/cub_200_2011, unpacked",
        )

    def available(self) -> str:
        missing = [f"{name}.txt" for name in TABLES if not (self.root / f"{name}.txt").is_file()]
        return f"{self.root} has no {', '.join(missing)}. CUB-200-2011: {self.declared().where}" if missing else ""

    def setup(self, stage: str | None = None) -> None:
        if self._spec is not None:
            return
        declared = self.declared()
        if self.generated:
            self._spec = replace(declared, source="generated")
            return
        if problem := self.available():
            raise DataError(problem)
        self.birds = read_listing(self.root)
        listing = "\n".join(f"{name} {bird}" for name, birds in self.birds.items() for bird in birds)
        train = len(self.birds["train"]) * self.variation.factor
        sizes = {"train": train, "val": 0, "test": len(self.birds["test"])}
        names = {bird.label: bird.file.split("/")[0] for birds in self.birds.values() for bird in birds}
        classes = tuple(names.get(label, str(label)) for label in range(CLASSES))
        identity = hashlib.sha256(listing.encode()).hexdigest()[:12]
        self._spec = replace(declared, classes=classes, sizes=sizes, identity=identity)

    def photos(self, split: str) -> BirdPhotos:
        return BirdPhotos(self.root, self.birds[split], self.whole)

    def training_images(self, rows: list[int]) -> Tensor:
        """Training photos as the network sees them, neither distorted nor augmented: (n, 3, S, S)."""
        plain = Squares(self.photos("train"), self.image_size)
        return torch.stack([plain[(0, row)][0] for row in rows])

    def _dataset(self, split: str) -> Dataset:
        if self.generated:
            return StandIns(2 * self.batch_size, self.spec.shape)
        photos = self.photos(split)
        if split != "train":
            return Squares(photos, self.image_size)
        return Squares(photos, self.image_size, self.variation, self.seed)

    def _loader(self, split: str) -> WorkerLoader:
        dataset = self._dataset(split)
        batches = self.batches(len(dataset), shuffle=split == "train")  # type: ignore[arg-type]
        workers = 0 if self.generated else self.num_workers
        return WorkerLoader(dataset, batches, columns=self.columns, num_workers=workers)

    def train_dataloader(self) -> WorkerLoader | list[WorkerLoader]:
        return self._loader("train")

    def val_dataloader(self) -> list[WorkerLoader]:
        return []

    def test_dataloader(self) -> WorkerLoader:
        return self._loader("test")


COUNTS = {"Birds": lambda data: {"images": 11_788}}
