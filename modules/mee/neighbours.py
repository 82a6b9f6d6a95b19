"""Neighbours of images: what DLLE takes to lie near an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.common.distributed import place_in_batch

AXES = {"height": -2, "width": -1}


def shared_normal(like: Tensor, *shape: int) -> Tensor:
    """N(0, 1) for each sample of this process, (b, *shape): drawn for the global batch and cut to its part."""
    total, start = place_in_batch(like)
    return torch.randn(total, *shape, device=like.device)[start : start + len(like)]


class Flip:
    """The whole batch mirrored along one axis, drawn anew for each batch, with a little noise.

    Args:
        axes: of "height" and "width", the axes to draw from; both as released, upside-down images included.
        noise: standard deviation of what is added.
    Raises:
        ValueError: no axis, or another one.
    """

    def __init__(self, axes: Sequence[str] = ("height", "width"), noise: float = 0.001) -> None:
        if not axes or set(axes) - set(AXES):
            raise ValueError(f"axes={list(axes)}: expected some of {', '.join(AXES)}")
        self.axes = [AXES[name] for name in axes]
        self.noise = noise

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> neighbours of the same shape."""
        axis = self.axes[int(torch.randint(len(self.axes), ()))]
        return images.flip(axis) + self.noise * shared_normal(images, *images.shape[1:])


class Shift:
    """The whole batch moved by `pixels` up, down, left or right, drawn anew for each batch, with a little noise.

    Args:
        pixels: how far.
        empty: the value of what comes in at the border, -1 for black.
        noise: standard deviation of what is added.
    """

    def __init__(self, pixels: int = 1, empty: float = -1.0, noise: float = 0.001) -> None:
        self.pixels = pixels
        self.empty = empty
        self.noise = noise

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> neighbours of the same shape."""
        number = int(torch.randint(4, ()))
        axis, sign = (-2, -1)[number % 2], (1, -1)[number // 2]
        moved = images.roll(sign * self.pixels, axis)
        border = (0, self.pixels) if sign > 0 else (images.shape[axis] - self.pixels, self.pixels)
        moved.narrow(axis, *border).fill_(self.empty)
        return moved + self.noise * shared_normal(images, *images.shape[1:])
