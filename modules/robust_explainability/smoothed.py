"""Simpler explanations of a map that points: it is smooth, it lies where the picture has edges, or in its middle.

The gradients of robust networks are smoother than a vanilla network's and look like the picture's outlines. A vanilla
network's map that was blurred, and a picture's edges, are so without any robustness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchvision.transforms.v2.functional import gaussian_blur

from modules.common.localisation import hits


def edges(x: Tensor) -> Tensor:
    """Length of the brightness's gradient by central differences, summed over channels: (B, C, H, W) -> (B, H, W)."""
    down, right = torch.gradient(x, dim=(2, 3))
    return torch.hypot(down, right).sum(1)


def central(x: Tensor) -> Tensor:
    """How near each pixel is to the middle, 0 in the corners: (B, C, H, W) -> (B, H, W)."""
    down, across = (torch.arange(side, device=x.device) - (side - 1) / 2 for side in x.shape[2:])
    distance = torch.hypot(down[:, None], across[None])
    return (distance.max() - distance).expand(len(x), -1, -1)


def blur(maps: Tensor, sigma: float) -> Tensor:
    """Maps (B, H, W) under a Gaussian of three standard deviations either side, mirrored at the edges; 0 leaves them.

    The kernel of a large sigma ends where a mirrored map ends.
    """
    if sigma == 0:
        return maps
    reach = min(math.ceil(3 * sigma), maps.shape[1] - 1, maps.shape[2] - 1)
    return gaussian_blur(maps[:, None], [2 * reach + 1] * 2, [sigma] * 2)[:, 0]


class SmoothedPointing(Metric):
    """Hit rate of the pointing game, percent, of maps under the blur that hits most often on the images to tune on.

    `compute` gives pointing, of the images that are not tuned on, and sigma; both are 0 where one of the two kinds is
    missing. Of blurs that hit equally often the first counts.

    Args:
        sigmas: standard deviations to choose from, pixels; 0 is the map as it is.
    """

    full_state_update = False
    right: Tensor
    images: Tensor

    def __init__(self, sigmas: Sequence[float]) -> None:
        super().__init__()
        self.sigmas = tuple(sigmas)
        self.add_state("right", torch.zeros(2, len(self.sigmas), dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(2, dtype=torch.double), dist_reduce_fx="sum")

    def update(self, maps: Tensor, masks: Tensor, in_test: Tensor) -> None:
        """maps (B, H, W); masks (B, 1, H, W) bool; in_test (B,), 0: to tune on."""
        kinds = in_test.long()
        for number, sigma in enumerate(self.sigmas):
            hit = hits(blur(maps.float(), sigma)[:, None], masks)[:, 0]
            self.right[:, number] += torch.bincount(kinds[hit], minlength=2)
        self.images += torch.bincount(kinds, minlength=2)

    def compute(self) -> dict[str, Tensor]:
        best = int(self.right[0].argmax())
        nothing = torch.zeros((), dtype=torch.double, device=self.right.device)
        if not (self.images > 0).all():
            return {"pointing": nothing, "sigma": nothing}
        return {"pointing": 100 * self.right[1, best] / self.images[1], "sigma": nothing + self.sigmas[best]}
