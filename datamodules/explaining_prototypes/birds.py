"""CUB-200-2011, cropped to the birds' boxes: for training, for the push, and modified for the analysis."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as V

from datamodules.common.base import DataError, DataModule, Spec, generator, seed_torch, stream
from datamodules.common.folders import UNREADABLE
from datamodules.common.loader import WorkerLoader
from datamodules.explaining_prototypes.modifications import Strengths, modify

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
SIZES = {"train": 5994, "val": 0, "test": 5794}
CLASSES = 200
KINDS = ("rotate", "skew", "shear")
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


def inscribed(width: float, height: float, angle: float) -> tuple[float, float]:
    """Sides of the largest upright rectangle of the same proportions inside a turned one; angle in degrees."""
    sin, cos = abs(math.sin(math.radians(angle))), abs(math.cos(math.radians(angle)))
    scale = min(width / (width * cos + height * sin), height / (width * sin + height * cos))
    return scale * width, scale * height


def distort(image: Image.Image, kind: str) -> Image.Image:
    """One of the offline copies: turned, skewed or sheared at random, without empty corners, mirrored or not.

    rotate: by up to 15 degrees, the largest inscribed rectangle of the result. skew: one side, or one corner, pulled in
    by up to 20% of the longer side. shear: by up to 10 degrees along one axis, without what gets empty. All at the
    image's own size in the end.
    """
    width, height = image.size
    bicubic = InterpolationMode.BICUBIC
    u = torch.rand(5).tolist()
    if kind == "rotate":
        angle = 30 * u[0] - 15
        inner = inscribed(width, height, angle)
        turned = V.rotate(image, angle, bicubic)
        image = V.center_crop(turned, [max(1, int(inner[1])), max(1, int(inner[0]))])
    elif kind == "skew":
        amount = 0.2 * max(width, height) * u[0]
        corners = [[0, 0], [width, 0], [width, height], [0, height]]
        moved = _skewed(width, height, amount, int(8 * u[1]))
        image = V.perspective(image, moved, corners, bicubic)
    else:
        angle = 20 * u[0] - 10
        sheared = [angle, 0.0] if u[1] < 0.5 else [0.0, angle]
        image = V.affine(image, 0.0, [0, 0], 1.0, sheared, bicubic)
        lost = math.tan(math.radians(abs(angle)))
        size = [height, width - lost * height] if u[1] < 0.5 else [height - lost * width, width]
        image = V.center_crop(image, [max(1, int(side)) for side in size])
    if u[2] < 0.5:
        image = V.hflip(image)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _skewed(width: int, height: int, amount: float, way: int) -> list[list[int]]:
    """The quadrilateral that becomes the whole image: 0 to 3 a side that is shortened, 4 to 7 a corner pulled in."""
    corners: list[list[float]] = [[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]]
    inward = [(1, 1), (-1, 1), (-1, -1), (1, -1)]
    a = amount / 2
    if way < 4:  # the side from corner `way` to the next: both ends move along it
        along = way % 2  # 0: a horizontal side
        for corner in (way, (way + 1) % 4):
            corners[corner][along] += a * inward[corner][along]
    else:
        corner = way - 4
        corners[corner] = [c + a * s for c, s in zip(corners[corner], inward[corner], strict=True)]
    return [[round(c) for c in corner] for corner in corners]


class Photos(Dataset):
    """Birds as networks see them. A sample is what `columns` of its datamodule says.

    Args:
        root: the unpacked archive.
        birds: photos.
        side: of the square input, pixels.
        copies: distorted copies of each photo instead of the photo itself; 0 for none. What a copy looks like depends
            on its number and the seed alone, as copies on a disc would.
        seed: of the copies.
        strengths: also modified versions; x is then (1 + M, 3, S, S).
        jpeg_roundtrip: see modifications.modify.
        in_test: number of the first test photo, where photos of both sets are served; the last column then says which.
    """

    def __init__(
        self,
        root: Path,
        birds: list[Bird],
        side: int,
        copies: int = 0,
        seed: int = 0,
        strengths: Strengths | None = None,
        jpeg_roundtrip: bool = False,
        in_test: int | None = None,
    ) -> None:
        self.root, self.birds, self.side, self.copies, self.seed = root, birds, side, copies, seed
        self.strengths, self.jpeg_roundtrip, self.in_test = strengths, jpeg_roundtrip, in_test

    def __len__(self) -> int:
        return len(self.birds) * max(1, self.copies)

    def crop(self, bird: Bird) -> Image.Image:
        """Raises DataError naming a photo that cannot be decoded."""
        path = self.root / "images" / bird.file
        try:
            with Image.open(path) as picture:
                return picture.convert("RGB").crop(tuple(round(side) for side in bird.box))  # type: ignore[arg-type]
        except UNREADABLE as error:
            raise DataError(f"{path} cannot be decoded ({error}); replace it") from error

    def finish(self, image: Tensor) -> Tensor:
        """uint8 (..., 3, H, W) -> resized and normalised (..., 3, S, S)."""
        resized = V.resize(image, [self.side, self.side], InterpolationMode.BILINEAR, antialias=True)
        return V.normalize(resized.float() / 255, list(MEAN), list(STD))

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        _, item = key
        row = item // max(1, self.copies)
        bird = self.birds[row]
        image = self.crop(bird)
        if self.copies:
            with torch.random.fork_rng(devices=[]):
                seed_torch(stream("distorted copy", self.seed, item))
                image = distort(image, KINDS[item % self.copies * len(KINDS) // self.copies])
        pixels = V.pil_to_tensor(image)
        if self.strengths is None:
            return self.finish(pixels), bird.label, row
        versions = [pixels, *(v[0] for v in modify(pixels[None], self.strengths, self.jpeg_roundtrip).values())]
        return self.finish(torch.stack(versions)), bird.label, int(row >= (self.in_test or 0))


class StandIns(Dataset):
    """Random samples of the declared shapes, for dry runs."""

    def __init__(self, length: int, side: int, versions: int = 0) -> None:
        self.length = length
        self.shape = (versions, 3, side, side) if versions else (3, side, side)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        source = generator("stand-in bird", *key)
        label = int(torch.randint(CLASSES, (), generator=source))
        return torch.randn(self.shape, generator=source), label, key[1] % 2 if len(self.shape) == 4 else key[1]


class Birds(DataModule):
    """CUB-200-2011, cropped to the boxes and squashed to a square. Batches are (x, y, row), row of the photo.

    Args:
        root: the unpacked archive.
        batch_size: the global batch, over all devices.
        image_size: side of the square, pixels.
        copies: of each training photo, distorted, in place of the photo (see distort): a third of them turned, a third
            skewed, a third sheared. 0 serves the photos as they are.
        num_workers: decoding processes; does not change what is served.
        seed, generated: see DataModule.
    Raises:
        DataError: data that is missing or damaged, or copies that cannot be shared out.
    """

    columns: tuple[str, ...] = ("x", "y", "row")

    def __init__(
        self,
        root: str,
        batch_size: int,
        image_size: int = 224,
        copies: int = 30,
        num_workers: int = 8,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        if copies < 0 or copies % len(KINDS):
            raise DataError(f"copies={copies}: expected 0 or a multiple of {len(KINDS)}")
        self.root, self.image_size, self.copies, self.num_workers = Path(root), image_size, copies, num_workers
        self.birds: dict[str, list[Bird]] = {}
        self._spec: Spec | None = None

    @property
    def spec(self) -> Spec:
        return self._spec or self.declared()

    def declared(self) -> Spec:
        """The spec before anything is read."""
        return Spec(
            name="CUB-200-2011, cropped",
            shape=(3, self.image_size, self.image_size),
            classes=tuple(map(str, range(CLASSES))),
            sizes={**SIZES, "train": SIZES["train"] * max(1, self.copies)},
            mean=MEAN,
            std=STD,
            split=f"official; {self.copies or 'no'} distorted copies of each training photo",
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
        sizes = {"train": len(self.birds["train"]) * max(1, self.copies), "val": 0, "test": len(self.birds["test"])}
        names = {bird.label: bird.file.split("/")[0] for birds in self.birds.values() for bird in birds}
        classes = tuple(names.get(label, str(label)) for label in range(CLASSES))
        identity = hashlib.sha256(listing.encode()).hexdigest()[:12]
        self._spec = replace(declared, classes=classes, sizes=sizes, identity=identity)

    def training_images(self, rows: list[int]) -> Tensor:
        """Training photos as the network sees them, without distortion: (n, 3, S, S)."""
        photos = Photos(self.root, self.birds["train"], self.image_size)
        return torch.stack([photos[(0, row)][0] for row in rows])

    def _dataset(self, split: str) -> Dataset:
        if self.generated:
            return StandIns(2 * self.batch_size, self.image_size)
        copies = self.copies if split == "train" else 0
        return Photos(self.root, self.birds[split], self.image_size, copies, self.seed)

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


class ModifiedBirds(Birds):
    """All training and test birds, each with its modified versions, made at the crop's own size before it is squashed.

    A test batch is x (B, 1 + M, 3, S, S), y (B,) and in_test (B,), as of modified.Modified.

    Args:
        strengths, jpeg_roundtrip: see modifications.
        options: see Birds.
    """

    columns = ("x", "y", "in_test")

    def __init__(
        self,
        root: str,
        batch_size: int,
        strengths: Strengths | None = None,
        jpeg_roundtrip: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(root, batch_size, copies=0, **options)
        self.strengths = strengths or Strengths()
        self.jpeg_roundtrip = jpeg_roundtrip

    @property
    def names(self) -> tuple[str, ...]:
        """The characteristics, in the order of x's second axis."""
        return self.strengths.names

    @property
    def spec(self) -> Spec:
        there = super().spec
        both = there.sizes["train"] + there.sizes["test"]
        return replace(there, sizes={**there.sizes, "test": both}, split=f"{there.split}; both sets, modified")

    def train_dataloader(self) -> list[WorkerLoader]:
        return []

    def _dataset(self, split: str) -> Dataset:
        if self.generated:
            return StandIns(2 * self.batch_size, self.image_size, 1 + len(self.names))
        birds = [*self.birds["train"], *self.birds["test"]]
        first = len(self.birds["train"])
        strengths, roundtrip = self.strengths, self.jpeg_roundtrip
        return Photos(self.root, birds, self.image_size, 0, self.seed, strengths, roundtrip, first)
