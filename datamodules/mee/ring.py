"""A ring of Gaussians: a distribution whose modes are known and equally likely."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from datamodules.common.arrays import Split
from datamodules.common.base import DataError, DataModule, Spec, generator, hashed
from datamodules.common.loader import Columns, Loader

SPLITS = ("train", "test")


class Ring(DataModule):
    """Points (2,) of Gaussians whose centres lie on a circle; the label is the Gaussian a point was drawn from.

    Args:
        batch_size: the global batch, over all devices.
        modes: Gaussians.
        radius: of the circle.
        deviation: of each Gaussian, in both coordinates.
        train_size, test_size: points per split.
        seed, generated: see DataModule; the data is generated in any case.
    Raises:
        DataError: a number that makes no sense.
    """

    def __init__(
        self,
        batch_size: int,
        modes: int = 8,
        radius: float = 2.0,
        deviation: float = 0.1,
        train_size: int = 12_800,
        test_size: int = 10_000,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, seed, generated)
        for name, value in {"modes": modes, "radius": radius, "deviation": deviation}.items():
            if value <= 0:
                raise DataError(f"{name}={value}: expected a number above 0")
        for name, value in {"train_size": train_size, "test_size": test_size}.items():
            if value < 1:
                raise DataError(f"{name}={value}: expected 1 or more")
        self.modes = modes
        self.radius = radius
        self.deviation = deviation
        self.splits: dict[str, Split] = {}
        self._spec = Spec(
            name=f"ring of {modes} Gaussians",
            shape=(2,),
            classes=tuple(map(str, range(modes))),
            sizes={"train": train_size, "val": 0, "test": test_size},
            mean=(0.0,),
            std=(1.0,),
            split=f"drawn by the seed: radius {radius:g}, standard deviation {deviation:g}",
            source="generated",
            where="computed",
        )

    @property
    def spec(self) -> Spec:
        return self._spec

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        self.splits = {name: self._draw(name, self._spec.sizes[name]) for name in SPLITS}
        self._spec = replace(self._spec, identity=hashed(*(t for split in self.splits.values() for t in split)))

    def _draw(self, name: str, count: int) -> Split:
        """Points (n, 2) and the Gaussian of each, (n,)."""
        source = generator("points of a ring", self.seed, SPLITS.index(name))
        labels = torch.randint(self.modes, (count,), generator=source)
        angles = labels * (2 * math.pi / self.modes)
        centres = self.radius * torch.stack([angles.cos(), angles.sin()], 1)
        return centres + self.deviation * torch.randn(count, 2, generator=source), labels

    def _loader(self, name: str) -> Loader:
        points, labels = self.splits[name]
        return Loader(self.batches(len(points), shuffle=name == "train"), Columns(self.device, x=points, y=labels))

    def train_dataloader(self) -> Loader:
        return self._loader("train")

    def val_dataloader(self) -> list[Loader]:
        return []

    def test_dataloader(self) -> Loader:
        return self._loader("test")
