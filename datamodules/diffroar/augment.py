"""Augmentation of the robustness library that the originals are trained with."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.base import Draws
from datamodules.common.simclr_augment import adjust_brightness, adjust_contrast, adjust_saturation


class Jitter:
    """Brightness, contrast, then saturation, each by a factor of its own in [1 - strength, 1 + strength].

    Args:
        strength: in [0, 1].
    """

    def __init__(self, strength: float = 0.25) -> None:
        self.strength = strength

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        factors = draws.uniform(3, low=1 - self.strength, high=1 + self.strength).to(images.device)
        for adjust, factor in zip(
            (adjust_brightness, adjust_contrast, adjust_saturation), factors.unbind(1), strict=True
        ):
            images = adjust(images, factor).clamp(0, 1)
        return images


class Rotation:
    """Turns each image about its centre, bilinear, black outside.

    Args:
        degrees: largest angle, both ways.
    """

    def __init__(self, degrees: float = 2.0) -> None:
        self.degrees = degrees

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        limit = math.radians(self.degrees)
        angle = draws.uniform(low=-limit, high=limit).to(images.device)
        ratio = images.shape[-2] / images.shape[-1]  # grids go from -1 to 1 along either side
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        theta = torch.stack([cos, -sin * ratio, zero, sin / ratio, cos, zero], 1).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)
