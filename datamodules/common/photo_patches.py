"""Canvases of several images on a 2x2 grid, and photos cut into patches of one size."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from datamodules.common.arrays import Split
from datamodules.common.base import DataError, DataModule, Spec, generator
from datamodules.common.folders import UNREADABLE, Source
from datamodules.common.imagenet_classes import imagenet_classes

CELLS = 4  # of the 2x2 grid


def assemble(images: Tensor, items: Tensor, cells: Tensor, background: int) -> Tensor:
    """images (M, C, H, W), items and cells (B, K) padded with -1 -> canvases (B, C, 2H, 2W)."""
    (b, _), (c, h, w) = items.shape, images.shape[1:]
    canvas = images.new_full((b, CELLS, c, h, w), background)
    row, column = (items >= 0).nonzero(as_tuple=True)
    canvas[row, cells[row, column]] = images[items[row, column]]
    return canvas.view(b, 2, 2, c, h, w).permute(0, 3, 1, 4, 2, 5).reshape(b, c, 2 * h, 2 * w)


class PhotoPatches(DataModule):
    """Square photos of the 1,000 ImageNet classes in memory, to be put on canvases; a test split alone.

    Shorter side to `side` (bicubic), centre crop. Values stay in [0, 1]: networks that use them bring their own mean
    and std.

    Args:
        root: folder, or zip, of `<split>/<wnid>/<file>`; label = rank of the wnid among ImageNet's.
        side: pixels.
        split: the folder that is read.
        batch_size, seed, generated: see DataModule.
    Raises:
        DataError: no such folder, a class that ImageNet does not have, or a photo that cannot be decoded.
    """

    def __init__(
        self,
        root: str,
        batch_size: int = 64,
        side: int = 160,
        split: str = "val",
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        self.root, self.side, self.folder = Path(root), side, split
        self.splits: dict[str, Split] = {}

    @property
    def spec(self) -> Spec:
        return Spec(
            name=f"ImageNet photos ({self.root.name})",
            shape=(3, self.side, self.side),
            classes=imagenet_classes()[1],
            sizes={"train": 0, "val": 0, "test": len(self.splits["test"][1]) if self.splits else 1000},
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            split=f"all photos of the {self.folder} folder",
            source="generated" if self.generated else "real",
            where=f"photos sorted into {self.root}/{self.folder}/<wnid>/, or a zip of that",
        )

    def available(self) -> str:
        try:
            files = Source(self.root).files
        except DataError as error:
            return f"{error}. {self.spec.where}"
        return "" if files.get(self.folder) else f"{self.root} has no {self.folder} folder. {self.spec.where}"

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        if self.generated:
            source = generator("stand-in", self.seed)
            images = torch.randint(256, (8, 3, self.side, self.side), generator=source, dtype=torch.uint8)
            self.splits = {"test": (images, torch.arange(8))}
            return
        if problem := self.available():
            raise DataError(problem)
        number, _ = imagenet_classes()
        source_, images_, labels = Source(self.root), [], []
        for wnid, names in source_.files[self.folder].items():
            if wnid not in number:
                raise DataError(f"{self.root}/{self.folder} has a class folder {wnid!r} that ImageNet does not know")
            images_ += [self._patch(source_, name) for name in names]
            labels += [number[wnid]] * len(names)
        self.splits = {"test": (torch.stack(images_), torch.tensor(labels))}

    def _patch(self, source: Source, name: str) -> Tensor:
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as V

        try:
            with Image.open(io.BytesIO(source.read(name))) as picture:
                image = V.resize(picture.convert("RGB"), [self.side], interpolation=InterpolationMode.BICUBIC)
        except UNREADABLE as error:
            raise DataError(f"{self.root / name} cannot be decoded ({error}); replace or remove it") from error
        return V.pil_to_tensor(V.center_crop(image, [self.side, self.side]))
