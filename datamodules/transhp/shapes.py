"""Generated: small grey pictures with a hierarchy by construction, five shapes with four values of an own attribute."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.common.arrays import ArrayData, Split
from datamodules.common.augment import Augmentation
from datamodules.common.base import DataError, Spec, generator

SHAPES = {  # each coarse class has a fine attribute that no other has
    "disc": ("radius 3", "radius 4", "radius 5", "radius 6"),
    "square": ("turned by 0°", "turned by 22.5°", "turned by 45°", "turned by 67.5°"),
    "stripes": ("period 2.5", "period 3.3", "period 4.4", "period 5.8"),
    "ring": ("1.2 thick", "2 thick", "2.8 thick", "3.6 thick"),
    "cross": ("long up", "long right", "long down", "long left"),
}
CLASSES = tuple(f"{shape}, {value}" for shape, values in SHAPES.items() for value in values)
RADII = (3.0, 4.0, 5.0, 6.0)
PERIODS = (2.5, 3.3, 4.4, 5.8)
THICKNESSES = (1.2, 2.0, 2.8, 3.6)
OUTER = 6.5  # radius of a ring and of the disc with stripes, pixels
HALF_SIDE = 4.5  # of a square
ARM = 4.0  # of a cross, from its centre
LONG_ARM = 6.5
HALF_WIDTH = 1.0  # of an arm
LOW = -1.0  # what black and white stand for; a shape is 1 on 0 before noise
HIGH = 2.0
SIDE = 20


@dataclass(frozen=True)
class Scene:
    """How a picture shows its shape.

    Attributes:
        noise: standard deviation of white noise; a shape is 1 on 0.
        jitter: largest shift of the centre along each axis, pixels.
    Raises:
        DataError: a negative number.
    """

    noise: float = 0.35
    jitter: float = 2.0

    def __post_init__(self) -> None:
        if self.noise < 0 or self.jitter < 0:
            raise DataError(f"noise={self.noise}, jitter={self.jitter}: expected no negative number")


def shapes(labels: Tensor, scene: Scene, source: torch.Generator) -> Tensor:
    """One picture for each label (N,) of CLASSES: uint8 (N, 1, 20, 20).

    Edges are one pixel wide. Stripes have a random phase.
    """
    n = len(labels)
    u = torch.rand(n, 3, generator=source)
    white = torch.randn(n, SIDE, SIDE, generator=source)
    kind = labels // 4
    value = labels % 4

    line = torch.arange(SIDE) - (SIDE - 1) / 2
    shift = (2 * u[:, :2] - 1) * scene.jitter
    y = (line - shift[:, :1])[:, :, None].expand(n, SIDE, SIDE)
    x = (line - shift[:, 1:])[:, None, :].expand(n, SIDE, SIDE)
    r = (x.square() + y.square()).sqrt()

    def pick(values: Sequence[float]) -> Tensor:
        return torch.tensor(values)[value].view(n, 1, 1)

    disc = inside(pick(RADII) - r)

    angle = pick([math.pi / 8 * k for k in range(4)])
    along = x * angle.cos() + y * angle.sin()
    across = y * angle.cos() - x * angle.sin()
    square = inside(HALF_SIDE - torch.maximum(along.abs(), across.abs()))

    whole = inside(OUTER - r)
    stripes = whole * (0.5 + 0.5 * torch.cos(2 * math.pi * (x / pick(PERIODS) + u[:, 2].view(n, 1, 1))))
    ring = whole - inside(OUTER - pick(THICKNESSES) - r)

    arms = []
    for number, (out, side) in enumerate(((-y, x), (x, y), (y, x), (-x, y))):  # up, right, down, left
        length = torch.where(value == number, LONG_ARM, ARM).view(n, 1, 1)
        arms.append(torch.minimum(inside(length - out) * inside(out + HALF_WIDTH), inside(HALF_WIDTH - side.abs())))
    cross = torch.stack(arms).amax(0)

    picture = torch.stack([disc, square, stripes, ring, cross], 1)[torch.arange(n), kind]  # (N, 20, 20)
    grey = (picture + scene.noise * white - LOW) / (HIGH - LOW)
    return (255 * grey).round().clamp(0, 255).to(torch.uint8)[:, None]


def inside(depth: Tensor) -> Tensor:
    """1 where `depth` pixels inside an edge are more than half a pixel, 0 outside, linear in between."""
    return (depth + 0.5).clamp(0, 1)


class Shapes(ArrayData):
    """Pictures of SHAPES, all 20 classes equally often, made anew for each seed.

    Args:
        train_size, val_size, test_size: images; train and val are cut from one set, test is another. Here the sizes are
            needed.
        scene: how they show their shapes.
        batch_size, augment, seed, generated: see ArrayData.
    """

    def __init__(
        self,
        batch_size: int,
        train_size: int = 800,
        val_size: int = 0,
        test_size: int = 1500,
        scene: Scene | None = None,
        augment: Sequence[Augmentation] = (),
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, train_size, val_size, test_size, 0.0, augment, seed, generated)
        if train_size < 1 or val_size < 0 or test_size < 1:
            sizes = {"train_size": train_size, "val_size": val_size, "test_size": test_size}
            raise DataError(f"{sizes}: expected numbers of images and no negative one")
        self.counts = {"train": train_size + val_size, "test": test_size}
        self.scene = scene or Scene()

    def declared(self) -> Spec:
        return Spec(
            name="shapes with a hierarchy",
            shape=(1, SIDE, SIDE),
            classes=CLASSES,
            sizes=self.counts,
            mean=(0.3877,),
            std=(0.1618,),
            split=f"procedurally generated 20x20 pictures, noise {self.scene.noise:g}; train and test from "
            "different streams",
            source="generated",
            where="made by the suite",
        )

    def read(self) -> tuple[Split, Split]:
        splits = []
        for number, count in enumerate(self.counts.values()):
            labels = torch.arange(count) % len(CLASSES)
            source = generator("shapes", self.seed, number)
            splits.append((shapes(labels, self.scene, source), labels))
        return splits[0], splits[1]
