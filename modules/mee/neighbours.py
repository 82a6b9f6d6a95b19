"""Neighbours of images: what DLLE takes to lie near an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.common.distributed import shared_normal

AXES = {"height": -2, "width": -1}


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
        pixels: how far, up to 1; parts of a pixel are interpolated between the image and the image a pixel further.
        empty: the value of what comes in at the border, -1 for black.
        noise: standard deviation of what is added.
    Raises:
        ValueError: `pixels` is not in (0, 1].
    """

    def __init__(self, pixels: float = 1.0, empty: float = -1.0, noise: float = 0.001) -> None:
        if not 0 < pixels <= 1:
            raise ValueError(f"pixels={pixels}: expected a number above 0, at most 1")
        self.pixels = pixels
        self.empty = empty
        self.noise = noise

    def __call__(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> neighbours of the same shape."""
        number = int(torch.randint(4, ()))
        axis, sign = (-2, -1)[number % 2], (1, -1)[number // 2]
        moved = images.roll(sign, axis)
        moved.select(axis, 0 if sign > 0 else -1).fill_(self.empty)
        return images.lerp(moved, self.pixels) + self.noise * shared_normal(images, *images.shape[1:])
