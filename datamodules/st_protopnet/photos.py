"""The paper's photos: birds with masks, and cars and dogs in class folders, as copies or augmented online."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, RandomAffine
from torchvision.transforms import functional as V

from datamodules.common.base import DataError
from datamodules.common.cub import BirdPhotos, Birds, Squares, StandIns, Variation
from datamodules.common.folders import UNREADABLE, DeclaredFolder, Source
from datamodules.common.loader import WorkerLoader


class Affine:
    """Turned by up to 25 degrees and sheared by up to 15, corners black, mirrored or not; for whole photos."""

    def __init__(self, degrees: float = 25.0, shear: float = 15.0, mirror: float = 0.5) -> None:
        self.move = RandomAffine(degrees=(-degrees, degrees), shear=shear)
        self.mirror = mirror

    def __call__(self, image: Image.Image) -> Image.Image:
        image = self.move(image)
        return V.hflip(image) if float(torch.rand(())) < self.mirror else image


class MaskedPhotos(Dataset):
    """Whole test birds with their segmentation: x (3, S, S), label, mask (S, S) uint8 of 0 and 1.

    Args:
        root: the unpacked archive, with `segmentations` beside `images`.
        photos: see BirdPhotos.
        side: of the square, pixels.
    """

    def __init__(self, root: Path, photos: BirdPhotos, side: int) -> None:
        self.root, self.photos, self.squares, self.side = root, photos, Squares(photos, side), side

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        x, label, row = self.squares[key]
        path = self.root / "segmentations" / PurePosixPath(self.photos.birds[row].file).with_suffix(".png")
        try:
            with Image.open(path) as picture:
                mask = torch.from_numpy(np.array(picture.convert("L")) != 0).to(torch.uint8)
        except UNREADABLE as error:
            raise DataError(f"{path} cannot be read ({error}); segmentations.tgz of CUB-200-2011 holds it") from error
        nearest = InterpolationMode.NEAREST
        return x, label, V.resize(mask[None], [self.side, self.side], nearest)[0]


class MaskedStandIns(StandIns):
    """Random samples whose left half is the object."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        x, label, _ = super().__getitem__(key)
        mask = torch.zeros(x.shape[1:], dtype=torch.uint8)
        mask[:, : x.shape[2] // 2] = 1
        return x, label, mask


class MaskedBirds(Birds):
    """Whole birds to test on, with masks: batches are (x, y, mask). There is nothing to train on.

    Args:
        options: see Birds.
    """

    columns = ("x", "y", "mask")

    def __init__(self, root: str, batch_size: int, **options: Any) -> None:
        super().__init__(root, batch_size, variation=Variation(), whole=True, **options)

    def available(self) -> str:
        if (problem := super().available()) or (self.root / "segmentations").is_dir():
            return problem
        return f"{self.root} has no segmentations: unpack segmentations.tgz of CUB-200-2011 there"

    def train_dataloader(self) -> list[WorkerLoader]:
        return []

    def _dataset(self, split: str) -> Dataset:
        if self.generated:
            return MaskedStandIns(2 * self.batch_size, self.spec.shape)
        return MaskedPhotos(self.root, self.photos(split), self.image_size)


class FolderPhotos:
    """Photo number i of class folders as (PIL image, label). Raises DataError naming one that cannot be decoded."""

    def __init__(self, source: Source, items: Sequence[tuple[str, int]]) -> None:
        self.source, self.items = source, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        name, label = self.items[row]
        try:
            with Image.open(BytesIO(self.source.read(name))) as picture:
                return picture.convert("RGB"), label
        except UNREADABLE as error:
            raise DataError(f"{self.source.root / name} cannot be decoded ({error}); replace or remove it") from error


class Kinds(DeclaredFolder):
    """Cars or dogs from root/{train,test}/<class>/, squashed to a square. Batches are (x, y, row), row of the photo.

    Args:
        root, batch_size, declared, where: see DeclaredFolder.
        variation: see cub.Birds.
        options: see DeclaredFolder.
    Raises:
        DataError: another number of classes than declared.
    """

    test_split = "test"

    def __init__(
        self,
        root: str,
        batch_size: int,
        declared: Mapping[str, int],
        where: str = "",
        variation: Variation | None = None,
        **options: Any,
    ) -> None:
        super().__init__(root, batch_size, declared, where, **options)
        self.variation = variation or Variation()

    def classes(self) -> tuple[str, ...]:
        names = super().classes()
        if len(names) != self.declared["classes"]:
            raise DataError(f"{self.root}/train has {len(names)} class folders, expected {self.declared['classes']}")
        return names

    def expected_sizes(self) -> dict[str, int]:
        there = super().expected_sizes()
        return {**there, "train": there["train"] * self.variation.factor}

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        assert self._spec is not None
        if not self.generated:
            self._spec = replace(self._spec, sizes=self.expected_sizes())

    def training_images(self, rows: list[int]) -> Tensor:
        """Training photos as the network sees them, neither distorted nor augmented: (n, 3, S, S)."""
        assert self.source is not None
        plain = Squares(FolderPhotos(self.source, self.items["train"]), self.image_size)
        return torch.stack([plain[(0, row)][0] for row in rows])

    def _loader(self, split: str) -> WorkerLoader:
        train = split == "train"
        if self.generated:
            dataset: Dataset = StandIns(2 * self.batch_size, self.spec.shape, len(self.spec.classes))
        else:
            assert self.source is not None
            photos = FolderPhotos(self.source, self.items[split])
            dataset = Squares(photos, self.image_size, self.variation if train else None, self.seed)
        batches = self.batches(len(dataset), shuffle=train)  # type: ignore[arg-type]
        workers = 0 if self.generated else self.num_workers
        return WorkerLoader(dataset, batches, columns=("x", "y", "row"), num_workers=workers)

    def val_dataloader(self) -> list[WorkerLoader]:  # type: ignore[override]
        return []
