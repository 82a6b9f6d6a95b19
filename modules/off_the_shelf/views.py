"""Several views of an image for a network that takes squares: jittered ones and overlapping patches.

All take images (B, C, H, W) in [0, 1] of any size and cut from the size they are given: a view keeps the detail that
the image has beyond the side it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Views = Callable[[Tensor, int], list[Tensor]]  # images (B, C, H, W), side S -> V views (B, C, S, S)


def resize(x: Tensor, side: int) -> Tensor:
    """(B, C, H, W) in [0, 1] -> (B, C, side, side), bicubic and antialiased, not keeping the aspect."""
    if x.shape[-2:] == (side, side):
        return x
    return F.interpolate(x, (side, side), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def rotate(x: Tensor, degrees: float) -> Tensor:
    """Turned about the centre; corners are filled by reflection."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    theta = torch.tensor([[c, -s, 0.0], [s, c, 0.0]], device=x.device, dtype=x.dtype).expand(len(x), 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)


class Jitter:
    """The image, its 4 corners and centre at 4/9 of the area, two rotations; then the same of the mirrored image.

    The crops are cut at the image's own size, 2/3 of each side, and only then resized.

    Args:
        angle: of the rotations, degrees.
        mirror: 16 views instead of 8.
    """

    def __init__(self, angle: float = 15.0, mirror: bool = True) -> None:
        self.angle, self.mirror = angle, mirror

    def __call__(self, x: Tensor, side: int) -> list[Tensor]:
        h, w = (round(2 * full / 3) for full in x.shape[-2:])
        bottom, right = x.shape[-2] - h, x.shape[-1] - w
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
        views = []
        for image in (x, x.flip(-1)) if self.mirror else (x,):
            whole = resize(image, side)
            crops = [resize(image[..., top : top + h, left : left + w], side) for top, left in corners]
            views += [whole, *crops, rotate(whole, self.angle), rotate(whole, -self.angle)]
        return views


def patch_boxes(height: int, width: int, levels: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of the patches of levels i = 1..levels: i^2 with sides 2 / (i + 1) of the image's."""
    boxes = []
    for i in range(1, levels + 1):
        h, w = math.ceil(2 * height / (i + 1)), math.ceil(2 * width / (i + 1))
        tops, lefts = (
            torch.linspace(0, full - part, i).round().int().tolist() for full, part in ((height, h), (width, w))
        )
        boxes += [(top, left, h, w) for top in tops for left in lefts]
    return boxes


class Patches:
    """All patches of the spatial search; those of fewer levels come first. `Patches(1)` is the whole image.

    Args:
        levels: h, giving h (h + 1) (2 h + 1) / 6 patches.
    """

    def __init__(self, levels: int = 1) -> None:
        self.levels = levels

    def __call__(self, x: Tensor, side: int) -> list[Tensor]:
        boxes = patch_boxes(x.shape[-2], x.shape[-1], self.levels)
        return [resize(x[..., top : top + h, left : left + w], side) for top, left, h, w in boxes]
