"""Small images and their modified versions, for the analysis of a network that is trained already."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData
from datamodules.common.base import Share, Spec
from datamodules.common.loader import Loader, batch_type
from datamodules.common.views import View
from datamodules.explaining_prototypes.modifications import Strengths, modify
from datamodules.explaining_prototypes.parts import Parts

SHOWS = {"hue": "hue", "texture": "texture", "outline": "shape"}  # a part's attribute -> the characteristic it is
WIDTH = 4  # of a patch's pixels, in cells of the feature map
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

    def patches(self, row: Tensor, place: Tensor, grid: tuple[int, int]) -> Tensor:
        """The pixels of patches of training images: squares of WIDTH cells around a cell, cut off at the border.

        Args:
            row: (P,) number of the training image.
            place: (P, 2) row and column of the cell in a map of `grid` cells.
        Returns:
            (P, C, s, s) in [0, 1].
        """
        images = self.source.splits["train"][0][row]  # (P, C, H, W)
        lines = []
        for axis, side in enumerate(images.shape[-2:]):
            cell = side // grid[axis]
            middle = place[:, axis, None] * cell + cell // 2
            lines.append((middle + torch.arange(WIDTH * cell) - WIDTH * cell // 2).clamp(0, side - 1))
        index = torch.arange(len(row))[:, None, None]
        return images[index, :, lines[0][:, :, None], lines[1][:, None, :]].permute(0, 3, 1, 2) / 255

    def planted(self) -> Tensor:
        """Which of `names` each class is about: (classes,), -1 where that is not known."""
        if not isinstance(self.source, Parts):
            return torch.full((len(self.spec.classes),), -1)
        return torch.tensor([self.names.index(SHOWS[part]) if part in SHOWS else -1 for part in self.source.shows])
