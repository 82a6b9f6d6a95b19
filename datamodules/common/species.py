"""Generated: small colour pictures of 40 species that differ in one part at a time, with all that can be known of them.

An object is a body of four grey lobes; a lobe's grey level says which part lies on it. Each part is a striped
blob with a hue, a texture, an outline and a size, and of each part one of these is given by the class, the other three
are drawn at random:

    part      hue                                texture             outline           size
    shows     red, yellow, green, blue, violet   upright, level      round, pointed    small, large

So 5 x 2 x 2 x 2 = 40 classes; two of them are neighbours where they differ in one part, and every picture shows every
attribute on every part: which of them matters has to be learnt. Objects are turned, mirrored and shifted, on uneven
grey with coloured clutter. What a classifier looks at can be compared with the mask, the boxes and the concepts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.arrays import ArrayData
from datamodules.common.augment import Augmentation
from datamodules.common.base import DataError, Spec, generator
from datamodules.common.loader import Columns, Images

ATTRIBUTES = {  # part number k shows attribute number k
    "hue": ("red", "yellow", "green", "blue", "violet"),
    "texture": ("upright", "level"),
    "outline": ("round", "pointed"),
    "size": ("small", "large"),
}
PARTS = tuple(ATTRIBUTES)
COUNTS = tuple(len(values) for values in ATTRIBUTES.values())
VALUES = tuple(product(*(range(count) for count in COUNTS)))  # class -> its four values
CLASSES = tuple(", ".join(v[i] for v, i in zip(ATTRIBUTES.values(), c, strict=True)) for c in VALUES)
CONCEPTS = tuple(f"{part} {value}" for part, values in ATTRIBUTES.items() for value in values)
PART_OF_CONCEPT = tuple(part for part, count in enumerate(COUNTS) for _ in range(count))
BODY = len(PARTS) + 1  # in a mask: 0 background, 1 to 4 the parts, 5 the rest of the body
OBJECT = len(PARTS)  # in boxes: 0 to 3 the parts, 4 the whole object

SIDE = 64
LOBE = 11.0  # radius of a lobe, and how far its centre is from the object's along each axis, pixels
TONES = (0.26, 0.97, 0.03, 0.74)  # grey level of each part's lobe; the background is between the middle two
RADII = (5.2, 7.6)  # of a small and a large part, pixels; a pointed one has the same area
POINTS = 0.45  # how far a pointed outline leaves the circle, as a share of its radius
PERIOD = 5.5  # of stripes, pixels
DEPTH = 0.9  # how much of the colour a stripe replaces in its middle
BAR = 3  # rows of the shortcut's bar, at the top
CHUNK = 200  # pictures drawn at a time

EXTRAS = ("mask", "boxes", "concepts", "bar")


@dataclass(frozen=True)
class Drawn:
    """N pictures and what is known of them."""

    images: Tensor  # (N, 3, 64, 64) uint8
    mask: Tensor  # (N, 64, 64) uint8: 0 background, 1 to 4 the parts, 5 the rest of the body
    boxes: Tensor  # (N, 5, 4) float32: x1, y1, x2, y2 of the four parts and of the object, pixels, ends exclusive


@dataclass(frozen=True)
class Shortcut:
    """A white bar over the top rows that goes with a concept in training and not in the test.

    Args:
        concept: one of CONCEPTS.
        train, test: share of pictures whose bar is there exactly if the concept is.
    Raises:
        DataError: no such concept, or no share.
    """

    concept: str
    train: float = 0.9
    test: float = 0.5

    def __post_init__(self) -> None:
        if self.concept not in CONCEPTS:
            raise DataError(f"concept={self.concept!r}: expected one of {', '.join(CONCEPTS)}")
        if not (0 <= self.train <= 1 and 0 <= self.test <= 1):
            raise DataError(f"train={self.train}, test={self.test}: expected shares between 0 and 1")

    def bars(self, labels: Tensor, agreement: float, source: torch.Generator) -> Tensor:
        """(N,) bool: which pictures have a bar."""
        present = concepts_of(labels)[:, CONCEPTS.index(self.concept)].bool()
        agrees = torch.rand(len(labels), generator=source) < agreement
        return present == agrees


def values_of(labels: Tensor) -> Tensor:
    """(N,) classes -> (N, 4): the number of each part's value."""
    return torch.tensor(VALUES)[labels]


def concepts_of(labels: Tensor) -> Tensor:
    """(N,) classes -> (N, 11) of 0 and 1, in the order of CONCEPTS."""
    own = values_of(labels).split(1, 1)
    return torch.cat([F.one_hot(v[:, 0], count) for v, count in zip(own, COUNTS, strict=True)], 1).float()


def draw(labels: Tensor, source: torch.Generator, noise: float = 0.03, clutter: int = 3) -> Drawn:
    """One picture for each label (N,).

    Args:
        noise: standard deviation of white noise, in units of [0, 1] pixels.
        clutter: coloured discs behind the object.
    """
    parts = [_draw(part, source, noise, clutter) for part in labels.split(CHUNK)]
    return Drawn(*(torch.cat([getattr(part, name) for part in parts]) for name in ("images", "mask", "boxes")))


def _draw(labels: Tensor, source: torch.Generator, noise: float, clutter: int) -> Drawn:
    n = len(labels)
    k = len(PARTS)

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=source)

    # What each part shows: drawn for all, then overwritten where the class decides.
    values = (uniform(k, k) * torch.tensor(COUNTS)).long()  # (n, part, attribute)
    values.diagonal(dim1=1, dim2=2).copy_(values_of(labels))
    hue, texture, outline, size = values.unbind(2)  # (n, 4) each
    colour = hsv_to_rgb(
        (hue + uniform(k, low=-0.15, high=0.15)) / COUNTS[0] % 1,
        uniform(k, low=0.6, high=0.95),
        uniform(k, low=0.65, high=0.95),
    )  # (n, 4, 3)
    radius = torch.tensor(RADII)[size] + uniform(k, low=-0.3, high=0.3)

    # Where the parts are: the corners of a square that is turned, mirrored and shifted.
    corners = LOBE * torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])  # (4, 2) of x, y
    turn = uniform(1, low=-0.25, high=0.25)
    mirror = (2 * (uniform(1) < 0.5) - 1).float()
    x = mirror * (corners[:, 0] * turn.cos() - corners[:, 1] * turn.sin())  # (n, 4)
    y = corners[:, 0] * turn.sin() + corners[:, 1] * turn.cos()
    shift = uniform(2, 1, low=-6.0, high=6.0) + (SIDE - 1) / 2

    line = torch.arange(float(SIDE))
    dx = line.view(1, 1, 1, -1) - (x + shift[:, 0]).view(n, k, 1, 1)
    dy = line.view(1, 1, -1, 1) - (y + shift[:, 1]).view(n, k, 1, 1)
    angle = uniform(k, 1, 1, high=2 * math.pi)
    along = dx * angle.cos() + dy * angle.sin()  # (n, 4, S, S)
    across = dy * angle.cos() - dx * angle.sin()
    squared = along.square() + across.square()
    r = squared.sqrt()

    # A pointed outline is a circle whose radius swings four times around: R (1 + a cos 4t), with the circle's area.
    four = (squared.square() - 8 * (along * across).square()) / squared.square().clamp(min=1e-6)  # cos 4t
    wide = radius.view(n, k, 1, 1)
    star = wide / math.sqrt(1 + POINTS**2 / 2) * (1 + POINTS * four)
    cover = inside(torch.where(outline.view(n, k, 1, 1) == 1, star, wide) - r)
    lobe = inside(LOBE - r)

    # Stripes stand upright or lie level in the object's own frame.
    upright = dx * turn.cos().view(n, 1, 1, 1) + dy * turn.sin().view(n, 1, 1, 1)
    level = dy * turn.cos().view(n, 1, 1, 1) - dx * turn.sin().view(n, 1, 1, 1)
    position = torch.where(texture.view(n, k, 1, 1) == 1, level, upright)
    wave = (2 * math.pi * (position / PERIOD + uniform(k, 1, 1))).cos()
    stripes = DEPTH * (0.5 + 0.5 * wave)  # (n, 4, S, S), how much of the colour they replace

    canvas = _background(n, clutter, source)
    tone = torch.tensor(TONES) + uniform(k, low=-0.03, high=0.03)
    for part in range(k):
        canvas = canvas.lerp(tone[:, part].view(n, 1, 1, 1).expand_as(canvas), lobe[:, None, part])
    for part in range(k):
        stripe = float(TONES[part] < 0.5)  # white on dark lobes, black on light ones: an outline stays visible
        painted = colour[:, part].view(n, 3, 1, 1).lerp(torch.tensor(stripe), stripes[:, None, part])
        canvas = canvas.lerp(painted, cover[:, None, part])
    canvas = canvas + noise * torch.randn(canvas.shape, generator=source)

    mask = BODY * (lobe > 0.5).any(1).to(torch.uint8)
    for part in range(k):
        mask = mask.masked_fill(cover[:, part] > 0.5, part + 1)
    regions = torch.stack([*(mask == part + 1 for part in range(k)), mask > 0], 1)  # (n, 5, S, S)
    return Drawn((255 * canvas).round().clamp(0, 255).to(torch.uint8), mask, boxes_around(regions))


def _background(n: int, clutter: int, source: torch.Generator) -> Tensor:
    """Uneven grey with coloured discs, (n, 3, S, S) in [0, 1]."""
    level = 0.45 + 0.1 * torch.rand(n, 1, 1, 1, generator=source)
    uneven = 0.12 * torch.rand(n, 1, 5, 5, generator=source) - 0.06
    canvas = (level + F.interpolate(uneven, (SIDE, SIDE), mode="bilinear", align_corners=True)).expand(n, 3, SIDE, SIDE)

    line = torch.arange(float(SIDE))
    for _ in range(clutter):
        u = torch.rand(n, 6, generator=source)
        dx = line.view(1, 1, -1) - SIDE * u[:, 0].view(n, 1, 1)
        dy = line.view(1, -1, 1) - SIDE * u[:, 1].view(n, 1, 1)
        cover = inside(2.5 + 2 * u[:, 2].view(n, 1, 1) - (dx.square() + dy.square()).sqrt())
        colour = hsv_to_rgb(u[:, 3], 0.5 + 0.45 * u[:, 4], 0.3 + 0.6 * u[:, 5])
        canvas = canvas.lerp(colour.view(n, 3, 1, 1).expand_as(canvas), cover[:, None])
    return canvas


def inside(depth: Tensor) -> Tensor:
    """1 where `depth` pixels inside an edge are more than half a pixel, 0 outside, linear in between."""
    return (depth + 0.5).clamp(0, 1)


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Hue, saturation and value in [0, 1], (...) each -> (..., 3)."""
    sector = (hue.unsqueeze(-1) * 6 + torch.tensor([5.0, 3.0, 1.0])) % 6  # (..., 3)
    away = torch.minimum(sector, 4 - sector).clamp(0, 1)
    return value.unsqueeze(-1) * (1 - saturation.unsqueeze(-1) * away)


def boxes_around(regions: Tensor) -> Tensor:
    """The smallest boxes, x1, y1, x2, y2 with exclusive ends: (..., H, W) bool, none of them empty -> (..., 4)."""
    edges = []
    for axis in (-2, -1):  # along x, then along y
        there = regions.any(axis).float()
        edges.append((there.argmax(-1), there.shape[-1] - there.flip(-1).argmax(-1)))
    (x1, x2), (y1, y2) = edges
    return torch.stack([x1, y1, x2, y2], -1).float()


class Species(ArrayData):
    """Pictures of the 40 species, all equally often, made anew for each seed and held in memory.

    What is known of the pictures is kept in `known`: split -> Drawn. Asked for in `extras`, it is served as further
    columns: mask (B, 64, 64) uint8, boxes (B, 5, 4), concepts (B, 11) of 0 and 1, bar (B,) of 0 and 1. These are of the
    picture before augmentation.

    Args:
        batch_size: the global batch, over all devices.
        train_per_class, val_per_class, test_per_class: pictures of each class, from streams of their own.
        noise, clutter: see `draw`.
        shortcut: a bar that goes with a concept in training; none unless given. Validation is like training.
        extras: further columns of every batch.
        augment, views, rows, seed, generated: see ArrayData; the set is generated anyway.
    Raises:
        DataError: numbers below what makes sense, or an unknown column.
    """

    def __init__(
        self,
        batch_size: int,
        train_per_class: int = 30,
        test_per_class: int = 15,
        val_per_class: int = 0,
        noise: float = 0.03,
        clutter: int = 3,
        shortcut: Shortcut | None = None,
        extras: Sequence[str] = (),
        augment: Sequence[Augmentation] = (),
        views: int = 1,
        rows: bool = False,
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(batch_size, augment=augment, seed=seed, generated=generated, views=views, rows=rows)
        self.per_class = {"train": train_per_class, "val": val_per_class, "test": test_per_class}
        if train_per_class < 1 or test_per_class < 1 or min(val_per_class, noise, clutter) < 0:
            raise DataError(
                f"{self.per_class}, noise={noise}, clutter={clutter}: expected pictures, and nothing negative"
            )
        for name in extras:
            if name not in EXTRAS:
                raise DataError(f"extras: {name!r}: expected one of {', '.join(EXTRAS)}")
        self.noise = noise
        self.clutter = clutter
        self.shortcut = shortcut
        self.extras = tuple(extras)
        self.known: dict[str, Drawn] = {}
        self.bars: dict[str, Tensor] = {}  # (N,) bool

    def declared(self) -> Spec:
        words = "procedurally generated 64x64 pictures; train, val and test from different streams"
        if self.shortcut is not None:
            words += f"; a bar goes with {self.shortcut.concept} in {self.shortcut.train:.0%} of the training pictures"
            words += f" and {self.shortcut.test:.0%} of the test pictures"
        return Spec(
            name="species",
            shape=(3, SIDE, SIDE),
            classes=CLASSES,
            sizes={name: count * len(CLASSES) for name, count in self.per_class.items()},
            mean=(0.5, 0.5, 0.5),
            std=(0.2, 0.2, 0.2),
            split=words,
            source="generated",
            where="made by the suite",
        )

    @property
    def spec(self) -> Spec:
        return self._spec or self.declared()

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        for number, (name, count) in enumerate(self.per_class.items()):
            if not count:
                continue
            labels = torch.arange(len(CLASSES)).repeat(count)
            drawn = draw(labels, generator("species", self.seed, number), self.noise, self.clutter)
            bars = torch.zeros(len(labels), dtype=torch.bool)
            if self.shortcut is not None:
                agreement = self.shortcut.test if name == "test" else self.shortcut.train
                bars = self.shortcut.bars(labels, agreement, generator("shortcut", self.seed, number))
                drawn.images[bars, :, :BAR] = 255
            self.splits[name], self.known[name], self.bars[name] = (drawn.images, labels), drawn, bars
        self._settle(self.declared())

    def fetch(self, name: str, *, augment: bool) -> Images:
        images, labels = self.splits[name]
        drawn = self.known[name]
        known = {
            "mask": drawn.mask,
            "boxes": drawn.boxes,
            "concepts": concepts_of(labels),
            "bar": self.bars[name].float(),
        }
        columns: dict[str, Tensor | None] = {"x": images, "y": labels}
        if self.rows:
            columns["row"] = None
        columns |= {extra: known[extra] for extra in self.extras}
        chosen = self.augment if augment else ()
        return Images(Columns(self.device, **columns), self.spec, self.peak, chosen, self.views if augment else 1)
