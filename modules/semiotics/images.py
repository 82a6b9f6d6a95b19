"""Images as persons and classifiers get them: grey pixels in [0, 1], and random versions of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.common.distributed import place_in_batch
from modules.common.module import StageModule


class GreyPixels(StageModule):
    """A stage that works on grey pixels in [0, 1]: it undoes what the datamodule normalised.

    It stands before the class whose arguments it takes: `class CONN(GreyPixels, ClassificationModule)`.
    """

    mean: Tensor  # (1, 1, 1)
    std: Tensor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.register_buffer("mean", torch.zeros(1, 1, 1))
        self.register_buffer("std", torch.ones(1, 1, 1))

    def setup(self, stage: str) -> None:
        spec = self.trainer.datamodule.spec  # type: ignore[attr-defined]
        self.mean.fill_(spec.mean[0])
        self.std.fill_(spec.std[0])

    def pixels(self, x: Tensor) -> Tensor:
        """Images as the datamodule serves them (B, 1, H, W), in [0, 1]."""
        return x * self.std + self.mean

    def stored(self, images: Tensor, data: Any) -> Tensor:
        """Images as the datamodule keeps them (N, 1, H, W), whole numbers, in [0, 1] on this module's device."""
        return images.to(self.mean) / data.peak


@dataclass(frozen=True)
class Randomizer:
    """Turns, scales and shifts images (bilinear, black outside), then adds Gaussian noise.

    Attributes:
        noise: standard deviation, in units of [0, 1] pixels.
        rotation: largest angle both ways, degrees.
        scale: largest relative change of size both ways.
        shift: largest shift both ways, pixels.
        versions: J, of each image at test; the same random changes for every image.
    Raises:
        ValueError: no version.
    """

    noise: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    versions: int = 1

    def __post_init__(self) -> None:
        if self.versions < 1:
            raise ValueError(f"versions={self.versions}: expected 1 or more")

    def fresh(self, x: Tensor) -> Tensor:
        """A new version of each image of a batch (B, C, S, S), drawn as one process would draw it."""
        total, start = place_in_batch(x)
        uniform, normal = self._draw(total, x.shape[1:])
        mine = slice(start, start + len(x))
        return self.change(x, uniform[mine], normal[mine])

    def fixed(self, x: Tensor, seed: int) -> Tensor:
        """All versions (J, B, C, S, S), the same changes for every image: none depends on the batch it is in."""
        uniform, normal = self._draw(self.versions, x.shape[1:], torch.Generator().manual_seed(seed))
        return torch.stack([self.change(x, uniform[j : j + 1], normal[j : j + 1]) for j in range(self.versions)])

    def change(self, x: Tensor, uniform: Tensor, normal: Tensor) -> Tensor:
        """Images (B, C, S, S) changed by `uniform` (B, 4) in [-1, 1), angle, size and shifts, and by `normal` noise.

        One row of numbers serves all images.
        """
        uniform, normal = uniform.to(x), normal.to(x)
        if self.rotation or self.scale or self.shift:
            x = F.grid_sample(x, self._grid(x, uniform.expand(len(x), 4)), align_corners=False)
        return x + self.noise * normal if self.noise else x

    @staticmethod
    def _draw(count: int, shape: Sequence[int], source: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        return 2 * torch.rand(count, 4, generator=source) - 1, torch.randn(count, *shape, generator=source)

    def _grid(self, x: Tensor, uniform: Tensor) -> Tensor:
        turn, size, right, down = uniform.unbind(1)
        angle, size = turn * math.radians(self.rotation), 1 + size * self.scale
        cos, sin = angle.cos() / size, angle.sin() / size
        per_pixel = 2 * self.shift / x.shape[-1]  # a grid's side is 2
        theta = torch.stack([cos, -sin, -right * per_pixel, sin, cos, -down * per_pixel], 1).view(-1, 2, 3)
        return F.affine_grid(theta, list(x.shape), align_corners=False)
