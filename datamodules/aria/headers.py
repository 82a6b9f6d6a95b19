"""What a file's header says of a picture, without a pixel of it: type, size, JPEG quality."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.aria.folders import Aria, Item
from datamodules.common.base import DataError
from datamodules.common.folders import UNREADABLE

FIELDS = ("jpeg", "png", "width", "height", "aspect", "quality")
STANDARD = 3688  # sum of the luminance table of the JPEG standard (Annex K), which is quality 50


def jpeg_quality(table: Sequence[int]) -> float:
    """The quality from 1 to 100 whose luminance table, as libjpeg scales it, has about this sum."""
    scale = 100 * sum(table) / STANDARD
    quality = (200 - scale) / 2 if scale <= 100 else 5000 / scale
    return min(100.0, max(1.0, quality))


def read_header(path: Path) -> Tensor:
    """FIELDS of an image file, of which no pixel is decoded: (6,).

    0 or 1 for the types, log2 of the sides over 1024 pixels, log2 of width over height, and quality / 100, which is 0
    for what is no JPEG file.
    """
    with Image.open(path) as picture:
        width, height = picture.size
        tables = getattr(picture, "quantization", None) or {}
        quality = jpeg_quality(list(tables[0])) / 100 if 0 in tables else 0.0
        kinds = [float(picture.format == kind) for kind in ("JPEG", "PNG")]
    return torch.tensor([*kinds, math.log2(width / 1024), math.log2(height / 1024), math.log2(width / height), quality])


class HeaderSet(Dataset):
    """Headers of an (epoch, row) pair's file."""

    def __init__(self, root: Path, items: Sequence[Item]) -> None:
        self.root, self.items = root, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, int, int]:
        name, *columns = self.items[key[1]]
        try:
            return read_header(self.root / name), *columns  # type: ignore[return-value]
        except UNREADABLE as error:
            raise DataError(f"{self.root / name} is no image ({error}); name it in `skip`, or remove it") from error


class Headers(Aria):
    """ARIA's files by their headers alone: x is (B, 6), see read_header; y, subset, category as there."""

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(FIELDS),)

    def pictures(self, split: str) -> Dataset:
        return HeaderSet(self.root, self.items[split])
