"""Instance retrieval made from any images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.arrays import ArrayData
from datamodules.common.base import DataError, Fed, Spec, generator, hashed
from datamodules.common.photo_patches import CELLS, PhotoPatches, assemble
from datamodules.common.views import View
from datamodules.off_the_shelf.collection import Collection, read_once


@dataclass(frozen=True)
class Cut:
    """How a query is made of its reference.

    Args:
        side: of the square, as a share of the reference's.
        rotation: largest angle in degrees, both ways.
        mirror: mirror it with probability 1/2.
        grey: it loses its colour.
    """

    side: float = 0.5
    rotation: float = 15.0
    mirror: bool = True
    grey: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.side <= 1:
            raise DataError(f"side={self.side}: expected a share of the reference's side, up to 1")

    def __str__(self) -> str:
        return (
            f"a square of {self.side:.0%} of the side cut from one of them, turned by up to {self.rotation:g} degrees"
            f"{', mirrored at random' * self.mirror}{', grey' * self.grey}"
        )

    def __call__(self, images: Tensor, source: torch.Generator) -> Tensor:
        """One random square of each image (B, C, H, W), at the image's own size."""
        b = len(images)
        angle = (torch.rand(b, generator=source) * 2 - 1) * math.radians(self.rotation)
        centre = (torch.rand(b, 2, generator=source) * 2 - 1) * (1 - self.side)
        flip = 1 - 2 * (torch.rand(b, generator=source) < 0.5).float() * self.mirror

        cos = angle.cos() * self.side
        sin = angle.sin() * self.side
        theta = torch.stack([cos * flip, -sin, centre[:, 0], sin * flip, cos, centre[:, 1]], 1).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        squares = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
        return squares.mean(1, keepdim=True).expand_as(squares) if self.grey else squares


class Crops(View, Collection):
    """Instance retrieval made from any images: references are whole images, each query is a square cut at random out of
    one of them, turned, perhaps mirrored and made grey, and enlarged to the size of a reference.

    The target of a query marks the image it was cut from, (references,) of 0 and 1.

    Args:
        source: the images, or photos; those of its training split are used, or of its test split without one.
        references, queries: how many; no two queries are from the same reference.
        grid: side of a reference in images of the source, 1 or 2: whole images or canvases of four. No image is on two
            canvases.
        cut: how a query is made of its reference; None takes Cut's defaults.
        seed: draws references and queries.
        others: see Collection.
    """

    tested = ("train", "test")  # references, then queries

    def __init__(
        self,
        source: ArrayData | PhotoPatches,
        batch_size: int,
        references: int,
        queries: int,
        grid: int = 1,
        cut: Cut | None = None,
        features: Fed | Sequence[Fed] = (),
        seed: int = 0,
        generated: bool = False,
    ) -> None:
        super().__init__(source, batch_size, seed, generated, features=features)
        if grid not in (1, 2):
            raise DataError(f"grid={grid}: expected 1 or 2")
        if queries > references:
            raise DataError(f"queries={queries}: expected at most one for each of {references} references")
        self.references = references
        self.queries = queries
        self.grid = grid
        self.cut = cut or Cut()

    def declared(self) -> Spec:
        there = self.source.spec
        channels, height, width = there.shape
        kind = "canvases of 2x2 images" if self.grid == 2 else "whole images"
        return replace(
            there,
            name=f"squares cut from {there.name}",
            shape=(channels, self.grid * height, self.grid * width),
            sizes={"train": self.references, "val": 0, "test": self.queries},
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            split=f"references are {kind}; a query is {self.cut}; drawn by the seed",
        )

    def random_targets(self, count: int) -> Tensor:
        return torch.eye(count, dtype=torch.long)

    def read(self) -> str:
        splits = read_once(self.source)
        images = splits["train" if "train" in splits else "test"][0]
        each = CELLS if self.grid == 2 else 1
        if len(images) < self.references * each:
            raise DataError(f"{self.source.spec.name} has {len(images)} images; {self.references * each} are needed")

        source = generator("squares", self.seed)
        chosen = torch.randperm(len(images), generator=source)[: self.references * each].view(-1, each)
        whole = images[chosen[:, 0]]
        if self.grid == 2:
            whole = assemble(images, chosen, torch.arange(CELLS).expand_as(chosen), 0)
        origin = torch.randperm(self.references, generator=source)[: self.queries]  # the reference of each query
        squares = self.cut(whole[origin].float(), source).round().clamp(0, 255).to(whole.dtype)

        self.array = torch.cat([whole, squares])
        self.rows["train"] = torch.arange(self.references)
        self.rows["test"] = self.references + torch.arange(self.queries)
        self.targets["train"] = torch.zeros(self.references, dtype=torch.long)
        self.targets["test"] = F.one_hot(origin, self.references)
        return hashed(self.array, self.targets["test"])

    def images(self, rows: Tensor) -> Tensor:
        peak = self.source.peak if isinstance(self.source, ArrayData) else 255
        return self.array[rows].float() / peak
