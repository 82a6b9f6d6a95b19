"""Fourier spectra of feature maps: which frequencies a layer keeps (Park & Kim, ICLR 2022, arXiv 2202.06709)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FLOOR = 1e-6  # amplitudes below it count as this


def averaged(x: Tensor, cell: int) -> Tensor:
    """Means of cell x cell pixels, (B, H, W, C) -> (B, H / cell, W / cell, C); the last cells may be smaller."""
    return x if cell == 1 else F.avg_pool2d(x.permute(0, 3, 1, 2), cell, ceil_mode=True).permute(0, 2, 3, 1)


def spectrum(x: Tensor) -> Tensor:
    """Amplitudes of the 2-D Fourier transform of every channel, (B, H, W, C) -> (B, H, W, C); frequency 0 is first."""
    return torch.fft.fft2(x.float(), dim=(1, 2)).abs()


def radii(height: int, width: int) -> Tensor:
    """Radius of every frequency, rounded to whole cycles per (longer) side: (H, W) int64."""
    fy, fx = torch.fft.fftfreq(height), torch.fft.fftfreq(width)
    return (torch.hypot(fy[:, None], fx[None]) * max(height, width)).round().long()


def radial(x: Tensor) -> Tensor:
    """Log-amplitude for each radius, mean over its frequencies and the channels: (B, H, W, C) -> (B, R + 1)."""
    radius = radii(x.shape[1], x.shape[2]).flatten().to(x.device)
    log = spectrum(x).clamp_min(FLOOR).log().mean(-1).flatten(1)  # (B, H W)
    rings = log.new_zeros(len(log), int(radius.max()) + 1).index_add_(1, radius, log)
    return rings / radius.bincount()


def high_frequency(rings: Tensor, base: int = 0) -> Tensor:
    """Log-amplitude at the highest radius minus that at radius `base`, of what `radial` gives: (B, R + 1) -> (B,).

    Low-pass maps are negative.
    """
    return rings[:, -1] - rings[:, base]
