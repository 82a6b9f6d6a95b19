"""A ring of Gaussians: a distribution whose modes are known and equally likely."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datamodules.common.base import DataError, Spec, generator
from datamodules.common.drawn import DrawnData
from datamodules.common.loader import Loader

SPLITS = ("train", "test", "val")


class Ring(DrawnData):
    """Points (2,) of Gaussians whose centres lie on a circle; the label is the Gaussian a point was drawn from.

    Args:
        batch_size: the global batch, over all devices.
        modes: Gaussians.
        radius: of the circle.
        deviation: of each Gaussian, in both coordinates.
        train_size, test_size: points per split; there are as many to choose a recipe by as to test on.
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
        for name, value in {"modes": modes, "radius": radius, "deviation": deviation}.items():
            if value <= 0:
                raise DataError(f"{name}={value}: expected a number above 0")
        for name, value in {"train_size": train_size, "test_size": test_size}.items():
            if value < 1:
                raise DataError(f"{name}={value}: expected 1 or more")
        described = Spec(
            name=f"ring of {modes} Gaussians",
            shape=(2,),
            classes=tuple(map(str, range(modes))),
            sizes={"train": train_size, "val": test_size, "test": test_size},
            mean=(0.0,),
            std=(1.0,),
            split=f"drawn by the seed: radius {radius:g}, standard deviation {deviation:g}",
            source="generated",
            where="computed",
        )
        super().__init__(described, batch_size, seed, generated)
        self.modes = modes
        self.radius = radius
        self.deviation = deviation

    def val_dataloader(self) -> list[Loader]:
        return [self._loader("val")]

    def draw(self) -> dict[str, dict[str, Tensor]]:
        return {name: self._points(name) for name in SPLITS}

    def _points(self, name: str) -> dict[str, Tensor]:
        """Points x (n, 2) and the Gaussian of each, y (n,)."""
        source = generator("points of a ring", self.seed, SPLITS.index(name))
        y = torch.randint(self.modes, (self.spec.sizes[name],), generator=source)
        angles = y * (2 * math.pi / self.modes)
        centres = self.radius * torch.stack([angles.cos(), angles.sin()], 1)
        return {"x": centres + self.deviation * torch.randn(len(y), 2, generator=source), "y": y}
