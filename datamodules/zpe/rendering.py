"""Images in four styles: as they are, as a line drawing, out of focus, at night."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as TF

KERNEL = 7  # of the blur, pixels
SIGMA = 2.0
NIGHT = 0.3  # brightness at night
NOISE = 0.05  # standard deviation, on every style


def tint(grey: Tensor, colours: Tensor) -> Tensor:
    """Grey images (N, 1, H, W) in [0, 1] in a colour each, (N, 3): (N, 3, H, W)."""
    return grey * colours[:, :, None, None]


def outline(x: Tensor) -> Tensor:
    """Dark lines on white where the brightness of x (N, 3, H, W) changes; colour is lost."""
    grey = x.mean(1, keepdim=True)
    across = torch.diff(grey, dim=3, append=grey[..., -1:])
    down = torch.diff(grey, dim=2, append=grey[:, :, -1:])
    edges = (across.square() + down.square()).sqrt()  # (N, 1, H, W)
    return (1 - 2 * edges).clamp(0, 1).expand_as(x)


def render(x: Tensor, style: str, source: torch.Generator) -> Tensor:
    """Images (N, 3, H, W) in [0, 1] in one of the styles, with noise: uint8 (N, 3, H, W).

    Raises:
        KeyError: no such style.
    """
    drawn = {
        "photo": lambda: x,
        "drawing": lambda: outline(x),
        "blurry": lambda: TF.gaussian_blur(x, [KERNEL, KERNEL], [SIGMA, SIGMA]),
        "night": lambda: NIGHT * x,
    }[style]()
    noisy = drawn + NOISE * torch.randn(x.shape, generator=source)
    return (255 * noisy).round().clamp(0, 255).to(torch.uint8)
