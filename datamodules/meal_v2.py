"""Augmentation of digits for MEAL V2's small experiment."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.common.base import Draws


class RandomAffine:
    """Rotates, scales and shifts each image, bilinear, zero outside.

    Args:
        rotation: largest angle in radians, both ways.
        scale: (smallest, largest) magnification.
        shift: largest shift as a fraction of half the image side.
    """

    def __init__(self, rotation: float = 0.0, scale: tuple[float, float] = (1.0, 1.0), shift: float = 0.0) -> None:
        self.rotation, self.scale, self.shift = rotation, scale, shift

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        angle = draws.uniform(low=-self.rotation, high=self.rotation)
        size = 1.0 / draws.uniform(low=self.scale[0], high=self.scale[1])
        shift = draws.uniform(2, low=-self.shift, high=self.shift)  # (B, 2)
        cos, sin = torch.cos(angle) * size, torch.sin(angle) * size
        theta = torch.stack([cos, -sin, shift[:, 0], sin, cos, shift[:, 1]], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)
