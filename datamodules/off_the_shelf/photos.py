"""Collections of photos that are read when they are served.

A photo, or the box in it, is resized to a square (bicubic, antialiased): the networks that see them take squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from datamodules.common.base import DataError, Fed, Spec, hashed
from datamodules.common.folders import UNREADABLE
from datamodules.off_the_shelf.collection import Collection

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True)
class Photo:
    """A file below the root, the part of it that is looked at (None: all), and a key where targets refer to it."""

    file: str
    box: Box | None = None
    key: str = ""


def enlarged(box: Box, factor: float) -> Box:
    """The box with both sides times `factor`, about its centre."""
    left, top, right, bottom = box
    dx, dy = (right - left) * (factor - 1) / 2, (bottom - top) * (factor - 1) / 2
    return left - dx, top - dy, right + dx, bottom + dy


def square_around(box: Box) -> Box:
    """The smallest square that contains the box, about its centre."""
    left, top, right, bottom = box
    half, x, y = max(right - left, bottom - top) / 2, (left + right) / 2, (top + bottom) / 2
    return x - half, y - half, x + half, y + half


def inside(box: Box, width: int, height: int, square: bool) -> Box:
    """The box cut at the picture's edge; a square one is first moved inside, and shrunk if it is too large."""
    left, top, right, bottom = box
    if square:
        side = min(right - left, width, height)
        left = min(max((left + right - side) / 2, 0), width - side)
        top = min(max((top + bottom - side) / 2, 0), height - side)
        return left, top, left + side, top + side
    return max(left, 0), max(top, 0), min(right, width), min(bottom, height)


class PhotoCollection(Collection):
    """Photos read when they are served.

    Args:
        root: the dataset's folder.
        batch_size: the global batch, over all devices.
        side: of the squares served, pixels.
        context: both sides of a box are multiplied by this before it is cut out.
        others: see Collection.
    """

    title: str
    where: str
    expected: tuple[int, int]  # training and test images
    names: tuple[str, ...] = ()
    marker: str  # a file or folder that is there when the dataset is
    square = False  # boxes are squares and stay so

    def __init__(
        self,
        root: str,
        batch_size: int,
        side: int = 221,
        context: float = 1.0,
        features: Fed | Sequence[Fed] = (),
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, features, None, seed, generated)
        self.root = Path(root)
        self.side = side
        self.context = context
        self.photos: list[Photo] = []

    def listing(self) -> tuple[list[Photo], list[Photo], Tensor, Tensor]:
        """(training photos, test photos, their targets)."""
        raise NotImplementedError

    def available(self) -> str:
        exists = (self.root / self.marker).exists()
        return "" if exists else f"{self.root / self.marker} does not exist. {self.title}: {self.where}"

    def declared(self) -> Spec:
        return Spec(
            name=self.title,
            shape=(3, self.side, self.side),
            classes=self.names,
            sizes={"train": self.expected[0], "val": 0, "test": self.expected[1]},
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            split="the official training and test images",
            where=self.where,
        )

    def read(self) -> str:
        try:
            train, test, y_train, y_test = self.listing()
        except (*UNREADABLE, LookupError) as error:
            raise DataError(f"{self.root} is no {self.title}: {error}") from error
        if not train or not test:
            raise DataError(f"{self.root} lists {len(train)} training and {len(test)} test photos. {self.where}")
        place: dict[Photo, int] = {}
        for photo in (*train, *test):
            place.setdefault(photo, len(place))
        self.photos = list(place)
        self.rows = {n: torch.tensor([place[p] for p in part]) for n, part in (("train", train), ("test", test))}
        self.targets = {"train": y_train, "test": y_test}
        return hashed(*self.targets.values(), *self.rows.values())

    def images(self, rows: Tensor) -> Tensor:
        return torch.stack([self.decoded(self.photos[row]) for row in rows.tolist()])

    def decoded(self, photo: Photo) -> Tensor:
        from torchvision.transforms.v2 import functional as V

        path = self.root / photo.file
        try:
            with Image.open(path) as picture:
                image = picture.convert("RGB")
        except UNREADABLE as error:
            raise DataError(f"{path} cannot be decoded ({error}); replace or remove it") from error
        box = (0.0, 0.0, float(image.width), float(image.height))
        if photo.box is not None:
            box = inside(enlarged(photo.box, self.context), image.width, image.height, self.square)
        size = (self.side, self.side)
        return V.pil_to_tensor(image.resize(size, Image.Resampling.BICUBIC, box=box)).float() / 255


def lines(path: Path) -> list[list[str]]:
    """Words of each line that has any."""
    return [words for line in path.read_text(encoding="utf-8").splitlines() if (words := line.split())]
