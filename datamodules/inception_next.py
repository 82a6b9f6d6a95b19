"""Generated noise images of any shape: input for measurements that do not depend on what is in a picture."""

from __future__ import annotations

import torch

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.base import Spec, generator


class Noise(ArrayData):
    """Independent uniform pixels, normalised to mean 0 and standard deviation 1, and random labels.

    Args:
        shape: (channels, height, width).
        batch_size: the global batch; also how many images train and test hold.
        classes: number of classes.
        seed, generated: see DataModule.
    """

    def __init__(
        self, shape: tuple[int, int, int], batch_size: int, classes: int = 10, seed: int = 0, generated: bool = False
    ) -> None:
        super().__init__(batch_size, seed=seed, generated=generated)
        self.shape, self.count = (shape[0], shape[1], shape[2]), classes

    def declared(self) -> Spec:
        return Spec(
            name=f"noise {'x'.join(map(str, self.shape))}",
            shape=self.shape,
            classes=tuple(map(str, range(self.count))),
            sizes={"train": self.batch_size, "test": self.batch_size},
            mean=(0.5,) * self.shape[0],
            std=(12**-0.5,) * self.shape[0],
            split="generated from the seed",
            source="generated",
            where="made when needed",
        )

    def read(self) -> tuple[Split, Split]:
        source = generator("noise images", self.seed)

        def split() -> Split:
            images = torch.randint(256, (self.batch_size, *self.shape), generator=source, dtype=torch.uint8)
            return images, torch.randint(self.count, (self.batch_size,), generator=source)

        return split(), split()
