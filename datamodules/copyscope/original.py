"""One original artwork, as the published study has it: a picture, its copy at another size, and a depth map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.base import DataError, DataModule, Spec, generator, hashed
from datamodules.common.loader import Columns, Images, Loader


@dataclass(frozen=True)
class Artwork:
    """A picture and its depth map, as they are served.

    Attributes:
        picture, depth: names of the files.
        height, width: pixels served, multiples of 8.
        copy: height and width of the resized copy.
    Raises:
        DataError: sides that are no multiples of 8.
    """

    picture: str = "mona_lisa.png"
    depth: str = "mona_lisa_depth.png"
    height: int = 736
    width: int = 512
    copy: Sequence[int] = (1472, 1024)

    def __post_init__(self) -> None:
        if self.height % 8 or self.width % 8:
            raise DataError(f"height={self.height}, width={self.width}: expected multiples of 8")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


class Original(DataModule):
    """Rows for so many images to generate, (x (B, 3, H, W) in [0, 1], hint (B, 3, H, W), row (B,)).

    There are two originals, `originals`: the picture, and the picture resized to a copy and back, as the released study
    has a resized copy beside it. Row i belongs to original i mod 2.

    Args:
        root: a folder with the picture and its depth map, both readable by Pillow.
        batch_size: the global batch, over all devices.
        images: rows.
        artwork: files and sizes.
        seed, generated: see DataModule.
    Raises:
        DataError: files that are missing.
    """

    def __init__(
        self,
        root: str,
        batch_size: int,
        images: int = 100,
        artwork: Artwork | None = None,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        self.root = Path(root)
        self.artwork = artwork or Artwork()
        self.count = images
        self.originals = torch.empty(0)  # (2, 3, H, W) uint8
        self.hint = torch.empty(0)  # (3, H, W) uint8
        self._identity = ""

    @property
    def spec(self) -> Spec:
        return Spec(
            name=f"original {self.artwork.picture}",
            shape=(3, *self.artwork.size),
            classes=("original",),
            sizes={"train": 0, "val": 0, "test": self.count},
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            split="one picture and its resized copy",
            source="generated" if self.generated else "real",
            where=f"{self.root}/{self.artwork.picture} and {self.artwork.depth}, a depth map of it",
            identity=self._identity,
        )

    def available(self) -> str:
        missing = [name for name in (self.artwork.picture, self.artwork.depth) if not (self.root / name).is_file()]
        return f"put {' and '.join(missing)} into {self.root}" if missing else ""

    def setup(self, stage: str | None = None) -> None:
        if len(self.originals):
            return
        if self.generated:
            source = generator("stand-in", self.seed)
            shape = (3, *self.artwork.size)
            picture, self.hint = torch.randint(256, (2, *shape), generator=source, dtype=torch.uint8)
        else:
            if problem := self.available():
                raise DataError(problem)
            picture, self.hint = (self._read(name) for name in (self.artwork.picture, self.artwork.depth))
        again = self._resize(self._resize(picture, self.artwork.copy), self.artwork.size)
        self.originals = torch.stack([picture, again])
        self._identity = hashed(self.originals, self.hint)

    def _read(self, name: str) -> Tensor:
        with Image.open(self.root / name) as opened:
            pixels = torch.from_numpy(np.array(opened.convert("RGB"))).permute(2, 0, 1)
        return self._resize(pixels, self.artwork.size)

    def _resize(self, image: Tensor, size: Sequence[int]) -> Tensor:
        """(3, H, W) uint8 at another size, bicubic."""
        made = F.interpolate(image[None].float(), tuple(size), mode="bicubic", antialias=True)
        return made[0].round().clamp(0, 255).to(torch.uint8)

    def train_dataloader(self) -> list[Loader]:
        return []

    def val_dataloader(self) -> list[Loader]:
        return []

    def test_dataloader(self) -> Loader:
        rows = torch.arange(self.count)
        pictures = self.originals[rows % len(self.originals)]
        hints = (self.hint.float() / 255).expand(self.count, *self.hint.shape)
        columns = Columns(self.device, x=pictures, hint=hints, row=rows)
        return Loader(self.batches(self.count, shuffle=False), Images(columns, self.spec))
