"""Elastic deformation of whole batches (Simard, Steinkraus & Platt 2003).

The same numbers as scipy.ndimage one image at a time: `gaussian_filter(noise, sigma, mode="constant") * alpha` for the
displacements, `map_coordinates(image, ..., order=1)` for the resampling.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.common.base import Draws


def gaussian_matrix(size: int, sigma: float, truncate: float = 4.0) -> Tensor:
    """The one-dimensional Gaussian filter with zeros outside, as a (size, size) matrix; float64.

    As in scipy.ndimage the kernel is cut `truncate` standard deviations from its centre, sums to 1 over what is left
    and is not weighted anew at the border, so that displacements shrink there.
    """
    offsets = torch.arange(size)[:, None] - torch.arange(size)  # (size, size)
    radius = int(truncate * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    weights = torch.exp(-0.5 * (offsets.double() / sigma) ** 2) / kernel.sum()
    return weights * (offsets.abs() <= radius)


def displace(images: Tensor, displacement: Tensor) -> Tensor:
    """Bilinear values of images (B, C, H, W) at every pixel's place plus displacement (B, 2, H, W): rows, columns.

    0 wherever the place lies outside the image, by however little: scipy's mode "constant", which does not fade out
    over the last pixel as grid_sample's "zeros" does.
    """
    height, width = images.shape[-2:]
    rows = displacement[:, 0] + torch.arange(height, device=images.device)[:, None]  # (B, H, W)
    columns = displacement[:, 1] + torch.arange(width, device=images.device)
    inside = (rows >= 0) & (rows <= height - 1) & (columns >= 0) & (columns <= width - 1)
    centred = [columns.mul_(2 / (width - 1)).sub_(1), rows.mul_(2 / (height - 1)).sub_(1)]  # -1 to 1 inside
    moved = F.grid_sample(images, torch.stack(centred, dim=-1), padding_mode="border", align_corners=True)
    return moved.mul_(inside[:, None])


class ElasticDeformation:
    """Moves every pixel by smooth random displacements, drawn for each image, the same in all its channels.

    Args:
        sigma: standard deviation of the Gaussian that smooths the displacements, pixels.
        alpha: factor on uniform noise in [-1, 1) after smoothing, pixels. Away from the border a displacement has a
            standard deviation of about alpha / (sqrt(3) * 2 sqrt(pi) * sigma): 0.81 pixels at sigma 4, alpha 20.
    Raises:
        ValueError: sigma is not positive.
    """

    def __init__(self, sigma: float = 4.0, alpha: float = 20.0) -> None:
        if sigma <= 0:
            raise ValueError(f"sigma={sigma}: expected a positive number of pixels")
        self.sigma, self.alpha = sigma, alpha

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[-2:]
        noise = draws.uniform(2, height, width, low=-1.0, high=1.0).to(images.device)  # (B, 2, H, W)
        return displace(images, self.displacement(noise))

    def displacement(self, noise: Tensor) -> Tensor:
        """Smoothed and scaled: (B, 2, H, W) in [-1, 1) -> the same shape, in pixels."""
        down, across = (gaussian_matrix(size, self.sigma).to(noise) for size in noise.shape[-2:])
        return (self.alpha * down) @ noise @ across.T
