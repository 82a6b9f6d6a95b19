"""CUB-200-2011, cropped to the birds' boxes: training and test birds modified for the analysis."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import Dataset
from torchvision.transforms import functional as V

from datamodules.common.base import Spec
from datamodules.common.cub import BirdPhotos, Birds, StandIns, Variation, to_square
from datamodules.common.loader import WorkerLoader
from datamodules.explaining_prototypes.modifications import Strengths, modify


class ModifiedPhotos(Dataset):
    """Photos with their modified versions: x (1 + M, 3, S, S), label, in_test.

    Args:
        photos: training photos, then test photos.
        side: of the square input, pixels.
        strengths, jpeg_roundtrip: see modifications.
        first_test: number of the first test photo.
    """

    def __init__(
        self, photos: BirdPhotos, side: int, strengths: Strengths, jpeg_roundtrip: bool, first_test: int
    ) -> None:
        self.photos, self.side, self.first_test = photos, side, first_test
        self.strengths, self.jpeg_roundtrip = strengths, jpeg_roundtrip

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        row = key[1]
        photo, label = self.photos[row]
        pixels = V.pil_to_tensor(photo)
        versions = [pixels, *(v[0] for v in modify(pixels[None], self.strengths, self.jpeg_roundtrip).values())]
        return to_square(torch.stack(versions), self.side), label, int(row >= self.first_test)


class Halves(StandIns):
    """Random samples of which every second one is a test photo."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[Any, ...]:
        x, label, number = super().__getitem__(key)
        return x, label, number % 2


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
        super().__init__(root, batch_size, variation=Variation(), **options)
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
            return Halves(2 * self.batch_size, (1 + len(self.names), *self.spec.shape))
        photos = BirdPhotos(self.root, [*self.birds["train"], *self.birds["test"]])
        return ModifiedPhotos(
            photos, self.image_size, self.strengths, self.jpeg_roundtrip, first_test=len(self.birds["train"])
        )
