"""Canvases with as many objects as images of ImageNet or of ImageNetV2 have valid labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.arrays import ArrayData
from datamodules.common.base import DataError, Spec, generator, hashed
from datamodules.common.composites import Layout
from datamodules.common.loader import Columns, Images, Loader, batch_type
from datamodules.common.photo_patches import CELLS, PhotoPatches, assemble
from datamodules.common.unequal import UnequalComposites, large_one


@dataclass(frozen=True)
class CanvasSet:
    """How one test set differs from another that shows the same images.

    Attributes:
        counts: images with 1, 2, 3 and 4 labels or more, of the set that is imitated; their shares count.
        block: side of the squares of pixels that are averaged: 1 leaves the images as they are.
        missed: probability that a label other than the original one is missing though its object is there.
    """

    counts: Sequence[int]
    block: int = 1
    missed: float = 0.0

    def __post_init__(self) -> None:
        if len(self.counts) != CELLS or min(self.counts) < 0 or not sum(self.counts):
            raise DataError(f"counts={list(self.counts)}: expected {CELLS} numbers of images, not all of them 0")
        if self.block < 1:
            raise DataError(f"block={self.block}: expected 1 or more pixels")
        if not 0 <= self.missed <= 1:
            raise DataError(f"missed={self.missed}: expected a probability, 0 to 1")


def objects_of(counts: Sequence[int], size: int) -> Tensor:
    """How many objects each of `size` canvases shows, (size,), rising; shares as in `counts` but for rounding."""
    bounds = torch.tensor(counts, dtype=torch.double).cumsum(0) / sum(counts)
    place = (torch.arange(size, dtype=torch.double) + 0.5) / size
    return 1 + torch.searchsorted(bounds, place, right=True)


def averaged(images: Tensor, block: int) -> Tensor:
    """uint8 images (M, C, H, W) with each block x block pixels replaced by their mean."""
    height, width = images.shape[-2:]
    small = F.avg_pool2d(images.float(), block, ceil_mode=True)
    large = F.interpolate(small, scale_factor=float(block))[..., :height, :width]
    return large.round().to(torch.uint8)


class CountedCanvases(UnequalComposites):
    """Test sets of canvases that differ in how many objects a canvas shows, in sharpness or in missing labels.

    As in UnequalComposites one image of a canvas is large, and it is the original label's with probability
    `prominence`; every object's class is a valid label. Canvas i of every set shows the same objects in the same cells,
    as many of them as the set's counts say, so that sets differ in nothing but what they are meant to differ in.

    Args:
        source, batch_size, background, prominence, seed, generated: see UnequalComposites.
        counts: of the training canvases, see CanvasSet.
        sets: name -> CanvasSet; a test loader each, in this order.
        train_size: training canvases; 0 for data that is only tested on.
        test_size: canvases of each test set.
    Raises:
        DataError: what CanvasSet and UnequalComposites raise.
    """

    def __init__(
        self,
        source: ArrayData | PhotoPatches,
        batch_size: int,
        counts: Sequence[int],
        sets: Mapping[str, CanvasSet],
        train_size: int = 0,
        test_size: int = 1000,
        background: int = 0,
        prominence: float = 0.75,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, train_size, test_size, [CELLS], background, prominence, seed, generated)
        self.sets = {"train": CanvasSet(counts), **sets}
        self.served: dict[str, Layout] = {}

    @property
    def spec(self) -> Spec:
        there = self.source.spec
        tested = len(self.sets) - 1
        return replace(
            super().spec,
            name=f"canvases of 1 to {CELLS} images, {there.name}",
            sizes={"train": self.wanted["train"], "val": 0, "test": tested * self.wanted["test"]},
            split=f"{tested} test sets that show the same images, with the label counts of another set each; one image "
            f"of a canvas large, and the label with probability {self.prominence:g}; training canvases show training "
            f"images, test canvases test images; images: {there.split}",
        )

    def setup(self, stage: str | None = None) -> None:
        if self.served:
            return
        super().setup(stage)  # canvases of four images, of which the sets show the first ones
        for number, (name, chosen) in enumerate(self.sets.items()):
            split = "train" if name == "train" else "test"
            if split in self.layouts:
                self.served[name] = self._layout(split, chosen, number)
        drawn = [t for layout in self.served.values() for t in (layout.items, layout.cells, layout.valid)]
        self._identity = hashed(*drawn, *self.images.values())

    def _layout(self, split: str, chosen: CanvasSet, number: int) -> Layout:
        """What set `number` shows; all sets of a split share every draw but that of the missing labels."""
        whole, images = self.layouts[split], len(self.source.splits[split][0])
        order = torch.randperm(len(whole), generator=generator("order of counts", self.seed, int(split == "test")))
        hidden = torch.arange(CELLS) >= objects_of(chosen.counts, len(whole))[order, None]  # (N, 4)
        valid = whole.valid.masked_fill(hidden, -1)

        draw = generator("large object", self.seed, int(split == "test"))
        small = torch.arange(CELLS) != large_one(valid, self.prominence, draw)[:, None]
        items = (whole.items % images + images * small).masked_fill(hidden, -1)

        missing = torch.rand(valid.shape, generator=generator("missed labels", self.seed, number)) < chosen.missed
        missing[:, 0] = False
        return Layout(items, whole.cells, valid.masked_fill(missing, -1))

    def _loader(self, name: str) -> Loader:
        """Batches (x (B, C, 2H, 2W), y, valid (B, 4) padded with -1 in any place but the first)."""
        layout, train = self.served[name], name == "train"
        images = self.images["train" if train else "test"]
        images = averaged(images, self.sets[name].block).to(self.device)
        columns = Columns(self.device, items=layout.items, cells=layout.cells, valid=layout.valid)

        def canvas(batch: Any) -> Any:
            x = assemble(images, batch.items, batch.cells, self.background)
            return batch_type(("x", "y", "valid"))(x, batch.valid[:, 0], batch.valid)

        return Loader(self.batches(len(layout), shuffle=train), Images(columns, self.spec, make=canvas))

    def test_dataloader(self) -> list[Loader]:  # type: ignore[override]
        return [self._loader(name) for name in self.sets if name != "train"]
