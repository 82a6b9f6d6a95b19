"""Canvases on which one image is larger than the others, and the label is mostly, but not always, what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.arrays import ArrayData
from datamodules.common.base import DataError, Spec, generator, hashed
from datamodules.common.composites import Composites, Layout
from datamodules.common.photo_patches import PhotoPatches


def halved(images: Tensor, background: int) -> Tensor:
    """uint8 images (M, C, H, W) at half the height and width, in the middle of H x W pixels of background."""
    height, width = images.shape[-2:]
    small = F.avg_pool2d(images.float(), 2).round().to(torch.uint8)  # (M, C, H / 2, W / 2)
    h, w = small.shape[-2:]
    top, left = (height - h) // 2, (width - w) // 2
    made = torch.full_like(images, background)
    made[..., top : top + h, left : left + w] = small
    return made


def large_one(valid: Tensor, prominence: float, source: torch.Generator) -> Tensor:
    """Which column of valid (N, K), padded with -1, is shown large; (N,).

    Column 0, the label's, with probability `prominence`, and otherwise each of the others with equal probability.
    """
    others = (valid >= 0).sum(1) - 1  # (N,)
    chance, place = torch.rand(2, len(valid), generator=source)
    other = 1 + (place * others).long()
    return torch.where((chance < prominence) | (others == 0), 0, other)


class UnequalComposites(Composites):
    """As Composites, but one image of a canvas has its full size and the others half of it, in the middle of their
    cells; the label is the class of the large one with probability `prominence`.

    So the label can be guessed from the canvas better than by chance, and not with certainty, as on ImageNet, where it
    is mostly the most prominent object. Every class is still equally often the label.

    Args:
        source, batch_size, train_size, test_size, patches, background, seed, generated: see Composites.
        prominence: in [0, 1].
    Raises:
        DataError: `prominence` out of range, and what Composites raises.
    """

    def __init__(
        self,
        source: ArrayData | PhotoPatches,
        batch_size: int,
        train_size: int = 0,
        test_size: int = 1000,
        patches: Sequence[int] = (2,),
        background: int = 0,
        prominence: float = 0.75,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, train_size, test_size, patches, background, seed, generated)
        if not 0 <= prominence <= 1:
            raise DataError(f"prominence={prominence}: expected a probability, 0 to 1")
        self.prominence = prominence
        self.images: dict[str, Tensor] = {}  # (2 M, C, H, W) of each split: M images, then the same ones at half size

    @property
    def spec(self) -> Spec:
        there = super().spec
        return replace(
            there,
            split=f"{'/'.join(map(str, self.patches))} images of different classes in random cells of a 2x2 grid, one "
            f"at full and the others at half size; the label is the large one with probability {self.prominence:g}; "
            f"training canvases show training images, test canvases test images; images: {self.source.spec.split}",
        )

    def setup(self, stage: str | None = None) -> None:
        if self.layouts:
            return
        super().setup(stage)
        for number, (name, layout) in enumerate(self.layouts.items()):
            images = self.source.splits[name][0]
            large = large_one(layout.valid, self.prominence, generator("large one", self.seed, number))
            small = (torch.arange(layout.valid.shape[1]) != large[:, None]) & (layout.valid >= 0)  # (N, K)
            self.layouts[name] = Layout(layout.items + len(images) * small, layout.cells, layout.valid)
            self.images[name] = torch.cat([images, halved(images, self.background)])
        drawn = [t for layout in self.layouts.values() for t in (layout.items, layout.cells, layout.valid)]
        self._identity = hashed(*drawn, *self.images.values())

    def images_of(self, name: str) -> Tensor:
        return self.images[name]
