"""Augmentation of architecture searches on CIFAR-10: crops of an enlarged image, and cutout."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.common.base import Draws


class EnlargedCrop:
    """Enlarges each image to `size`, bilinear, and cuts the original size at a random place."""

    def __init__(self, size: int = 40) -> None:
        self.size = size

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[-2:]
        if self.size < max(height, width):
            raise ValueError(f"size={self.size}: expected at least the images' {max(height, width)}")
        large = F.interpolate(images, (self.size, self.size), mode="bilinear", align_corners=False)
        windows = large.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, size-H+1, size-W+1, H, W)
        rows, columns = (
            draws.integers(self.size - height + 1).to(images.device),
            draws.integers(self.size - width + 1).to(images.device),
        )
        return windows[torch.arange(len(images), device=images.device), :, rows, columns]


class Cutout:
    """Replaces a square of `side` pixels around a random pixel by `value` (DeVries & Taylor 2017); it may reach out.

    Args:
        side: of the square.
        value: one number or one for each channel, in units of [0, 1]; the dataset's mean becomes 0 once normalised.
    """

    def __init__(self, side: int = 16, value: float | list[float] = 0.5) -> None:
        self.side, self.value = side, value

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        inside = []
        for n in images.shape[-2:]:
            first = draws.integers(n) - self.side // 2
            pixels = torch.arange(n)
            inside.append((pixels >= first[:, None]) & (pixels < first[:, None] + self.side))  # (B, n)
        box = (inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(images.device)  # (B, 1, H, W)
        value = torch.tensor(self.value, device=images.device).view(-1, 1, 1)
        return torch.where(box, value, images)
