"""Small images and their modified versions, for the analysis of a network that is trained already."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData
from datamodules.common.base import Share, Spec
from datamodules.common.loader import Loader, batch_type
from datamodules.common.species import PARTS, Species
from datamodules.common.views import View
from datamodules.explaining_prototypes.modifications import Strengths, modify

SHOWS = {"hue": "hue", "texture": "texture", "outline": "shape"}  # a part's attribute -> the characteristic it is
LEAST = 0.2  # share of a patch that a part has to fill
COLUMNS = ("x", "y", "in_test")


class Modified(View):
    """All training and test images of `source`, each with its modified versions. There is nothing to train on.

    A test batch is x (B, 1 + M, C, H, W), the image itself first, then one version for each of `names`; y (B,); and
    in_test (B,), 0 for training images and 1 for test images.

    Args:
        source: the images, as they were trained on, but for augmentation.
        batch_size: images at a time, over all devices.
        strengths: see modifications.Strengths.
        jpeg_roundtrip: see modifications.modify.
        generated: see DataModule.
    """

    source: ArrayData

    def __init__(
        self,
        source: ArrayData,
        batch_size: int,
        strengths: Strengths | None = None,
        jpeg_roundtrip: bool = False,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated)
        self.strengths = strengths or Strengths()
        self.jpeg_roundtrip = jpeg_roundtrip

    @property
    def names(self) -> tuple[str, ...]:
        """The characteristics, in the order of x's second axis."""
        return self.strengths.names

    @property
    def spec(self) -> Spec:
        there = self.source.spec
        sizes = {"train": there.sizes["train"], "val": 0, "test": there.sizes["train"] + there.sizes["test"]}
        return replace(there, sizes=sizes, split=f"{there.split}; tested on training and test images, modified")

    def setup(self, stage: str | None = None) -> None:
        self.source.setup(stage)

    def train_dataloader(self) -> list[Loader]:
        return []

    def val_dataloader(self) -> list[Loader]:
        return []

    def test_dataloader(self) -> Loader:
        splits = [self.source.splits[name] for name in ("train", "test")]
        images = torch.cat([images for images, _ in splits])
        labels = torch.cat([labels for _, labels in splits])
        in_test = torch.arange(len(images)) >= len(splits[0][0])

        def fetch(share: Share) -> Any:
            original = images[share.indices]
            versions = [original, *modify(original, self.strengths, self.jpeg_roundtrip).values()]
            x = torch.stack([self.source.normalised(version) for version in versions], 1)  # (B, 1 + M, C, H, W)
            columns = (x, labels[share.indices], in_test[share.indices].long())
            return batch_type(COLUMNS)(*(column.to(self.device) for column in columns))

        return Loader(self.batches(len(images), shuffle=False), fetch)

    # What is known of a patch of a training image: `row` (P,) its number, `place` (P, 2) the cell of a map (H, W).

    def window(self, place: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The pixels of patches, twice as wide as a cell and around its centre: rows and columns (P, s)."""
        height, width = self.spec.shape[-2:]
        lines = []
        for axis, side in enumerate((height, width)):
            cell = side // grid[axis]
            line = place[:, axis, None] * cell - cell // 2 + torch.arange(2 * cell)
            lines.append(line.clamp(0, side - 1))
        return lines[0], lines[1]

    def patches(self, row: Tensor, place: Tensor, grid: tuple[int, int]) -> Tensor:
        """(P, C, s, s) in [0, 1]."""
        y, x = self.window(place, grid)
        images = self.source.splits["train"][0][row]  # (P, C, H, W)
        index = torch.arange(len(row))[:, None, None]
        return images[index, :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2) / 255

    def planted(self, row: Tensor, place: Tensor, grid: tuple[int, int]) -> Tensor:
        """Which of `names` the class decides in each patch: of the part that fills most of it. (P,), -1 for none."""
        none = torch.full((len(row),), -1)
        if not isinstance(self.source, Species):
            return none
        y, x = self.window(place, grid)
        index = torch.arange(len(row))[:, None, None]
        mask = self.source.known["train"].mask[row][index, y[:, :, None], x[:, None, :]]  # (P, s, s)
        shares = torch.stack([(mask == part + 1).float().mean((1, 2)) for part in range(len(PARTS))], 1)  # (P, 4)
        meaning = torch.tensor([self.names.index(SHOWS[part]) if part in SHOWS else -1 for part in PARTS])
        most, part = shares.max(1)
        return torch.where(most >= LEAST, meaning[part], none)
