"""Pictures with concepts, and boxes around what shows them: generated species and folders of photos.

Batches are x (B, 3, S, S), y (B,), concepts (B, K) of 0 and 1; those of tests have further columns:

    boxes (B, R, 4)     x1, y1, x2, y2 in pixels of x, ends exclusive
    shows (B, R)        what a box is around: a concept from 0; K for a thing that should not count; -1 for no box
    in_test (B,)        1 for test images; where `everything` is asked for, 0 for training images and 2 for validation
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from datamodules.common.augment import Augmentation
from datamodules.common.base import Spec
from datamodules.common.loader import Columns, Images, Loader
from datamodules.common.species import BAR, CONCEPTS, PART_OF_CONCEPT, PARTS, SIDE, Species, concepts_of
from datamodules.common.views import View

NO_BOX = -1
IN_TEST = {"train": 0, "test": 1, "val": 2}  # the column of that name, by split


class SpeciesFindings(View):
    """Generated species; a concept is a part's attribute, its box is the part's, and the bar is what should not count.

    Every picture shows all four parts, so that their boxes tell where to look and not which class it is.

    Args:
        source: the pictures; its batch size and augmentation are not used.
        batch_size: the global batch, over all devices.
        everything: test on all images: first the training ones, then validation, if there is any.
        augment: operations on training batches.
        generated: see DataModule; the set is generated anyway.
    """

    source: Species

    def __init__(
        self,
        source: Species,
        batch_size: int,
        everything: bool = False,
        augment: Sequence[Augmentation] = (),
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, generated=generated)
        self.everything = everything
        self.augment = augment

    @property
    def concepts(self) -> tuple[str, ...]:
        return CONCEPTS

    @property
    def tested(self) -> tuple[str, ...]:
        """Splits that the test goes through."""
        validation = ("val",) if self.source.per_class["val"] else ()
        return ("train", *validation, "test") if self.everything else ("test",)

    @property
    def spec(self) -> Spec:
        there = self.source.spec
        count = sum(there.sizes[name] for name in self.tested)
        return replace(there, sizes={**there.sizes, "test": count})

    def setup(self, stage: str | None = None) -> None:
        self.source.setup(stage)

    def _concepts(self, name: str) -> Tensor:
        """(N, K) of 0 and 1."""
        return concepts_of(self.source.splits[name][1])

    def _boxes(self, name: str) -> tuple[Tensor, Tensor]:
        """(N, 5, 4) and (N, 5): the four parts, each with the concept it shows, and the bar where there is one."""
        present = self._concepts(name)
        parts = torch.tensor(PART_OF_CONCEPT)
        numbers = torch.arange(len(CONCEPTS))
        shown = [(present * (parts == part) * numbers).sum(1).long() for part in range(len(PARTS))]
        bar = torch.where(self.source.bars[name], len(CONCEPTS), NO_BOX)

        boxes = self.source.known[name].boxes[:, : len(PARTS)]
        top = torch.tensor([0.0, 0.0, SIDE, BAR]).expand(len(boxes), 1, 4)
        return torch.cat([boxes, top], 1), torch.stack([*shown, bar], 1)

    def train_dataloader(self) -> Loader:
        images, y = self.source.splits["train"]
        columns = Columns(self.device, x=images, y=y, concepts=self._concepts("train"))
        fetch = Images(columns, self.spec, self.source.peak, self.augment)
        return Loader(self.batches(len(y), shuffle=True), fetch)

    def val_dataloader(self) -> list[Loader]:
        """Nothing: validation images are looked at as maps, by the stages that a rate is chosen for."""
        return []

    def test_dataloader(self) -> Loader:
        splits = [self.source.splits[name] for name in self.tested]
        boxes, shows = zip(*(self._boxes(name) for name in self.tested), strict=True)
        y = torch.cat([labels for _, labels in splits])
        in_test = [torch.full((len(s[1]),), IN_TEST[name]) for name, s in zip(self.tested, splits, strict=True)]
        columns = Columns(
            self.device,
            x=torch.cat([images for images, _ in splits]),
            y=y,
            concepts=torch.cat([self._concepts(name) for name in self.tested]),
            boxes=torch.cat(boxes),
            shows=torch.cat(shows),
            in_test=torch.cat(in_test),
        )
        return Loader(self.batches(len(y), shuffle=False), Images(columns, self.spec, self.source.peak))

    def training_images(self, rows: Sequence[int]) -> Tensor:
        """Training images as the network sees them: (n, 3, S, S)."""
        self.source.setup()
        return self.source.normalised(self.source.splits["train"][0][list(rows)])
