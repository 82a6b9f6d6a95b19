"""Patches of three photos that come with scikit-learn and matplotlib, in splits that share no pixel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.arrays import ArrayData
from datamodules.common.augment import Augmentation
from datamodules.common.base import DataError, Spec, generator

PHOTOS = ("china.jpg", "flower.jpg", "grace_hopper.jpg")
SUBJECTS = ("buildings", "flower", "person")
SPLITS = ("train", "val", "test")


def read_photos() -> list[Tensor]:
    """The photos as they are decoded, (3, H, W) uint8."""
    from matplotlib import cbook
    from sklearn.datasets import load_sample_image

    path = cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    with Image.open(str(path)) as picture:
        portrait = np.array(picture.convert("RGB"))
    pixels = [load_sample_image("china.jpg"), load_sample_image("flower.jpg"), portrait]
    return [torch.tensor(photo).permute(2, 0, 1) for photo in pixels]


def shrink(photo: Tensor, reduction: float) -> Tensor:
    """A photo (3, H, W) at 1/reduction of its size (antialiased, bilinear), float32 from 0 to 255, not rounded."""
    size = [math.floor(side / reduction) for side in photo.shape[1:]]
    return F.interpolate(photo[None].float(), size, mode="bilinear", antialias=True, align_corners=False)[0]


def deal(blocks: int, shares: Sequence[int], source: torch.Generator) -> list[list[int]]:
    """Numbers of `blocks` blocks in random order, dealt in proportion to `shares`; at least one to each share above 0.

    Raises:
        DataError: fewer blocks than shares.
    """
    wanted = [share for share in shares if share]
    if blocks < len(wanted):
        raise DataError(f"{blocks} blocks of a photo for {len(wanted)} splits: expected at least one each")
    order = torch.randperm(blocks, generator=source).tolist()
    spare = blocks - len(wanted)
    bounds = [0]
    for number in range(1, len(wanted) + 1):
        bounds.append(number + spare * sum(wanted[:number]) // sum(wanted))
    dealt = iter(order[first:last] for first, last in itertools.pairwise(bounds))
    return [next(dealt) if share else [] for share in shares]


class PhotoRegions(ArrayData):
    """Square patches of three photos, at a reduced size, turned and mirrored; the label is the photo.

    A photo is reduced and cut into square blocks, which are dealt to train, val and test; patches lie at random inside
    a block, so that no pixel is in two splits. Each patch is made darker by a factor of its own and rounded once, as a
    generated picture is rounded once: with the reduction this takes away what tells a decoded JPEG file apart.

    Args:
        batch_size: the global batch, over all devices.
        train_size, val_size, test_size: patches per split.
        side: of a patch, pixels.
        block: side of a block, pixels.
        reduction: how many times smaller the photos become.
        gain: lowest and highest factor on a patch's values.
        augment, seed, generated, rows: see ArrayData.
    Raises:
        DataError: blocks smaller than a patch, or too few for three splits.
    """

    def __init__(
        self,
        batch_size: int,
        train_size: int = 1500,
        val_size: int = 500,
        test_size: int = 500,
        side: int = 32,
        block: int = 56,
        reduction: float = 1.9,
        gain: Sequence[float] = (0.7, 0.95),
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
        generated: bool = False,
        rows: bool = False,
    ) -> None:
        sizes = (train_size, val_size, test_size)
        super().__init__(batch_size, *sizes, augment=augment, seed=seed, generated=generated, rows=rows)
        if block < side:
            raise DataError(f"block={block}: expected at least a patch's side, {side}")
        self.side = side
        self.block = block
        self.reduction = reduction
        self.gain = tuple(gain)

    def declared(self) -> Spec:
        counts = [int(size or 0) for size in (self.train_size, self.val_size, self.test_size)]
        return Spec(
            name="patches of three photos",
            shape=(3, self.side, self.side),
            classes=SUBJECTS,
            sizes={"train": counts[0] + counts[1], "test": counts[2]},
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
            split=f"blocks of {self.block} pixels of the photos, reduced {self.reduction:g} times, dealt to the splits",
            where="comes with scikit-learn and matplotlib",
        )

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        if self.generated:
            super().setup(stage)
            return
        spec = self._sized(self.declared())
        counts = [spec.sizes[name] for name in SPLITS]
        source = generator("patches of photos", self.seed)
        blocks: list[list[tuple[int, Tensor]]] = [[], [], []]  # of each split: label, (3, block, block)
        for label, photo in enumerate(read_photos()):
            cells = self._cells(shrink(photo, self.reduction))
            for number, own in enumerate(deal(len(cells), counts, source)):
                blocks[number] += [(label, cells[index]) for index in own]
        for name, count, cut in zip(SPLITS, counts, blocks, strict=True):
            self.splits[name] = self._draw(cut, count, source)
        self._settle(spec)

    def _cells(self, photo: Tensor) -> list[Tensor]:
        rows, columns = (side // self.block for side in photo.shape[1:])
        cut = photo[:, : rows * self.block, : columns * self.block]
        cells = cut.unfold(1, self.block, self.block).unfold(2, self.block, self.block)  # (3, rows, columns, b, b)
        return list(cells.permute(1, 2, 0, 3, 4).flatten(0, 1))

    def _draw(self, blocks: list[tuple[int, Tensor]], count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        images = torch.empty(count, 3, self.side, self.side, dtype=torch.uint8)
        labels = torch.empty(count, dtype=torch.long)
        low, high = self.gain
        order = torch.randperm(len(blocks), generator=source).tolist()
        for row in range(count):  # every block equally often, up to one
            label, cell = blocks[order[row % len(order)]]
            top, left = torch.randint(self.block - self.side + 1, (2,), generator=source).tolist()
            turns, mirrored = torch.randint(4, (2,), generator=source).tolist()
            gain = low + (high - low) * float(torch.rand((), generator=source))
            patch = torch.rot90(cell[:, top : top + self.side, left : left + self.side], turns, (1, 2))
            patch = patch.flip(-1) if mirrored % 2 else patch
            images[row] = (gain * patch).round().clamp(0, 255).to(torch.uint8)
            labels[row] = label
        return images, labels
