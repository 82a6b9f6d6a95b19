"""Augmentation of whole batches: tensor operations, with randomness handed in.

Every operation is called as `op(images, draws)`: images (B, C, H, W) in [0, 1], float32; draws (see base.Draws) gives
numbers per image, so that results do not depend on how a batch is shared out or where a run was resumed.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.common.base import Draws


class Augmentation(Protocol):
    def __call__(self, images: Tensor, draws: Draws) -> Tensor: ...


class HorizontalFlip:
    """Mirrors each image with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        self.p = p

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        chosen = (draws.uniform() < self.p).nonzero().flatten().to(images.device)
        return images.index_copy(0, chosen, images.index_select(0, chosen).flip(-1))


class RandomCrop:
    """Pads by `padding` zero pixels and cuts the original size at a random place."""

    def __init__(self, padding: int = 4) -> None:
        self.padding = padding

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[-2:]
        windows = F.pad(images, [self.padding] * 4).unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2p+1, 2p+1, H, W)
        rows, columns = draws.integers(2 * self.padding + 1, 2).to(images.device).unbind(1)
        return windows[torch.arange(len(images), device=images.device), :, rows, columns]


class RandomResizedCrop:
    """Cuts a random area and aspect ratio and resizes it to the original size, bilinear (torchvision's rule).

    Boxes that do not fit are clipped to the image side instead of redrawn.
    """

    def __init__(self, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)) -> None:
        self.scale, self.ratio = scale, ratio

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        return self.crop(images, draws)[0]

    def crop(self, images: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """The crops, and where they were cut: (B, 4) of x1, y1, x2, y2 as fractions of the image's width and height."""
        area = draws.uniform(low=self.scale[0], high=self.scale[1])
        aspect = torch.exp(draws.uniform(low=math.log(self.ratio[0]), high=math.log(self.ratio[1])))
        width = (area * aspect).sqrt().clamp(max=1.0)
        height = (area / aspect).sqrt().clamp(max=1.0)
        size = torch.stack([width, height], dim=1)
        centre = draws.uniform(2, low=-1.0, high=1.0) * torch.stack([1 - width, 1 - height], dim=1)
        zero = torch.zeros_like(width)
        theta = torch.stack([width, zero, centre[:, 0], zero, height, centre[:, 1]], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
        boxes = torch.cat([1 + centre - size, 1 + centre + size], dim=1) / 2
        return F.grid_sample(images, grid, align_corners=False), boxes.clamp(0, 1).to(images.device)
