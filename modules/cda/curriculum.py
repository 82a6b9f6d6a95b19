"""What the recovered images look like at a step: one crop, one mirror and one shift for the whole batch."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torchvision.transforms import v2

SHAPES = ("step", "linear", "cosine")


@lru_cache(maxsize=4)
def shuffled_steps(steps: int) -> tuple[int, ...]:
    """0 to S - 1 in an order that is random and always the same."""
    return tuple(torch.randperm(steps, generator=torch.Generator().manual_seed(0)).tolist())


class Crops:
    """A random resized crop whose smallest area m(t) falls from the whole image to `smallest` (global to local).

        u = t / (milestone S);  m(t) = 1 (step),  a + (1 - a)(1 - u) (linear),  a + (1 - a)(1 + cos(pi u)) / 2 (cosine)

    for u < 1 and a = `smallest` afterwards. The largest area is 1 throughout, so that late steps see whole images too.
    `milestone: 0` is SRe2L, m(t) = a throughout; `shape: step` with `milestone: 1` never crops.

    Args:
        shape: one of SHAPES.
        milestone: the share of the S steps after which m(t) has arrived, in [0, 1].
        reverse: the same m(t) in the opposite order, local to global.
        shuffled: the same m(t) in a random order: as much of the image is seen, without a curriculum.
        smallest: a, the smallest area of a crop as a share of the image.
        jitter: largest shift of the cropped view to the right and downwards, pixels; what leaves comes back opposite.
    Raises:
        ValueError: an unknown shape, or a number outside its range.
    """

    def __init__(
        self,
        shape: str = "cosine",
        milestone: float = 1.0,
        reverse: bool = False,
        smallest: float = 0.08,
        jitter: int = 32,
        shuffled: bool = False,
    ) -> None:
        if shape not in SHAPES:
            raise ValueError(f"shape={shape!r}: expected one of {', '.join(SHAPES)}")
        if not 0 <= milestone <= 1 or not 0 < smallest <= 1 or jitter < 0:
            raise ValueError(
                f"milestone={milestone}: expected in [0, 1]; smallest={smallest} in (0, 1]; jitter={jitter} 0 or more"
            )
        self.shape = shape
        self.milestone = milestone
        self.reverse = reverse
        self.smallest = smallest
        self.jitter = jitter
        self.shuffled = shuffled

    def bound(self, t: int, steps: int) -> float:
        """m(t), the smallest area of a crop at step t of S = `steps`, counted from 0."""
        t = steps - 1 - t if self.reverse else t
        t = shuffled_steps(steps)[t] if self.shuffled else t
        if t >= self.milestone * steps:
            return self.smallest

        u = t / (self.milestone * steps)
        above = {"step": 1.0, "linear": 1 - u, "cosine": (1 + math.cos(math.pi * u)) / 2}[self.shape]
        return self.smallest + (1 - self.smallest) * above

    def __call__(self, x: Tensor, t: int, steps: int) -> Tensor:
        """(B, C, H, W) -> a view of the same shape, differentiable in x; draws from torch's global state."""
        crop = v2.RandomResizedCrop(list(x.shape[-2:]), scale=(self.bound(t, steps), 1.0), antialias=False)
        view = v2.RandomHorizontalFlip()(crop(x))
        shift = torch.randint(self.jitter + 1, (2,)).tolist()
        return torch.roll(view, shift, (-2, -1))
