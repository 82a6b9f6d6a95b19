"""Canvases that show several images of known classes, with one of the classes as the single label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData
from datamodules.common.base import DataError, Spec, generator, hashed
from datamodules.common.loader import Columns, Images, Loader, batch_type
from datamodules.common.photo_patches import CELLS, PhotoPatches, assemble
from datamodules.common.views import View


@dataclass(frozen=True)
class Layout:
    """What N canvases show: K = most images on one canvas, shorter lists padded with -1."""

    items: Tensor  # (N, K) index of each image in its split
    cells: Tensor  # (N, K) cell of the grid, 0 to 3
    valid: Tensor  # (N, K) classes on the canvas; the first is the single label

    def __len__(self) -> int:
        return len(self.items)


def draw(labels: Tensor, count: int, shown: int, source: torch.Generator) -> Layout:
    """`count` canvases of `shown` images from `shown` different classes, in different cells.

    Every class that has images is equally likely, and so is each of its images. The single label is the first class
    drawn, so that neither its cell nor anything else tells it from the others.

    Args:
        labels: (M,) class of each image.
    Raises:
        DataError: fewer classes than `shown`.
    """
    sizes = labels.bincount()
    present = sizes.nonzero().flatten()
    if len(present) < shown:
        raise DataError(f"patches={shown}: the images have {len(present)} classes, and a canvas shows different ones")
    order, starts = labels.argsort(stable=True), sizes.cumsum(0) - sizes
    chosen = present[torch.rand(count, len(present), generator=source).argsort(1)[:, :shown]]  # (N, shown)
    within = (torch.rand(count, shown, generator=source) * sizes[chosen]).long()
    cells = torch.rand(count, CELLS, generator=source).argsort(1)[:, :shown]
    return Layout(order[starts[chosen] + within], cells, chosen)


def joined(layouts: Sequence[Layout]) -> Layout:
    """Several layouts as one, padded to the longest lists."""
    width = max(layout.items.shape[1] for layout in layouts)

    def padded(name: str) -> Tensor:
        lists = [getattr(layout, name) for layout in layouts]
        return torch.cat([torch.nn.functional.pad(p, (0, width - p.shape[1]), value=-1) for p in lists])

    return Layout(padded("items"), padded("cells"), padded("valid"))


class Composites(View):
    """Canvases of two to four images of different classes on a 2x2 grid; the label is one of the classes.

    Training canvases show training images, test canvases test images. Which images meet, where, and which class
    becomes the label is drawn once from the seed; a canvas is assembled when it is served.

    Args:
        source: the images; its splits and seed are used, its batch size is not.
        batch_size: the global batch, over all devices.
        train_size: training canvases for each entry of `patches`; 0 for data that is only tested on.
        test_size: test canvases for each entry of `patches`.
        patches: images on a canvas, 1 to 4.
        background: what empty cells show, 0 to 255.
        seed, generated: see DataModule.
    Raises:
        DataError: `patches` out of range, or a source with too few classes.
    """

    def __init__(
        self,
        source: ArrayData | PhotoPatches,
        batch_size: int,
        train_size: int = 0,
        test_size: int = 1000,
        patches: Sequence[int] = (2,),
        background: int = 0,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, seed, generated)
        if not patches or not all(1 <= shown <= CELLS for shown in patches):
            raise DataError(f"patches={list(patches)}: expected numbers from 1 to {CELLS}")
        self.patches = list(patches)
        self.background = background
        self.wanted = {"train": train_size, "test": test_size}
        self.layouts: dict[str, Layout] = {}
        self._identity = ""

    @property
    def spec(self) -> Spec:
        there = self.source.spec
        channels, height, width = there.shape
        shown = "/".join(map(str, self.patches))
        sizes = {name: count * len(self.patches) for name, count in self.wanted.items()}
        return replace(
            there,
            name=f"canvases of {shown} images, {there.name}",
            shape=(channels, 2 * height, 2 * width),
            sizes={**sizes, "val": 0},
            split=f"{shown} images of different classes in random cells of a 2x2 grid, the label one of them at random;"
            f" training canvases show training images, test canvases test images; images: {there.split}",
            identity=self._identity,
        )

    def setup(self, stage: str | None = None) -> None:
        if self.layouts:
            return
        self.source.setup(stage)
        for number, (name, count) in enumerate(self.wanted.items()):
            if count:
                labels = self.source.splits[name][1]
                source = generator("composites", self.seed, number)
                self.layouts[name] = joined([draw(labels, count, shown, source) for shown in self.patches])
        drawn = [t for layout in self.layouts.values() for t in (layout.items, layout.cells, layout.valid)]
        self._identity = hashed(*drawn, *(self.source.splits[name][0] for name in self.layouts))

    def images_of(self, name: str) -> Tensor:
        """The images that a split's layout numbers."""
        return self.source.splits[name][0]

    def _loader(self, name: str) -> Loader:
        """Training batches are (x (B, C, 2H, 2W), y). Test batches also hold what counts as right: valid (B, K), padded
        with -1, skip (B,), major (B,); nothing is skipped, and no image is set aside as a major mistake.
        """
        layout, train = self.layouts[name], name == "train"
        columns = Columns(self.device, items=layout.items, cells=layout.cells, valid=layout.valid)
        images = self.images_of(name).to(self.device)

        def canvas(batch: Any) -> Any:
            x = assemble(images, batch.items, batch.cells, self.background)
            y, none = batch.valid[:, 0], torch.zeros(len(x), dtype=torch.bool, device=x.device)
            if train:
                return batch_type(("x", "y"))(x, y)
            return batch_type(("x", "y", "valid", "skip", "major"))(x, y, batch.valid, none, none)

        return Loader(self.batches(len(layout), shuffle=train), Images(columns, self.spec, make=canvas))

    def train_dataloader(self) -> Loader | list[Loader]:
        return self._loader("train") if "train" in self.layouts else []

    def val_dataloader(self) -> list[Loader]:
        return []

    def test_dataloader(self) -> Loader:
        return self._loader("test")
