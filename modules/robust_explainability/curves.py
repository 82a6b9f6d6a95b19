"""Insertion and deletion (Petsiuk et al. 2018): the class's probability while pixels come or go by a map's order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from modules.robust_explainability.passes import logits


def area(curve: Tensor) -> Tensor:
    """Area below equally spaced points, (sum - first / 2 - last / 2) / (T - 1): (..., T) -> (...)."""
    return (curve.sum(-1) - (curve[..., 0] + curve[..., -1]) / 2) / (curve.shape[-1] - 1)


@lru_cache
def blur_kernel(side: int, sigma: float) -> Tensor:
    """RISE's kernel (side, side), which sums to 1: a pulse, blurred within its own square.

    The Gaussian's tails are folded back at the square's edges. 11 pixels at sigma 5 are so nearly a box: 0.00883 in
    the middle and 0.00774 in the corners, where a Gaussian that is cut off has 0.01196 and 0.00440.
    """
    pulse = np.zeros((side, side))
    pulse[side // 2, side // 2] = 1
    return torch.from_numpy(gaussian_filter(pulse, sigma)).float()


def blurred(x: Tensor, side: int, sigma: float) -> Tensor:
    """What an insertion starts from, (B, C, H, W) both: beyond the edges lies 0, the mean."""
    kernel = blur_kernel(side, sigma).to(x).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(x, kernel, padding=side // 2, groups=x.shape[1])


@dataclass(frozen=True)
class Curves:
    """How both curves are taken.

    Args:
        steps: equal shares of the pixels; a curve has one point more. 224 of 224x224 pixels are 224 pixels a step.
        blur: side of the kernel that an insertion's start is blurred with, an odd number of pixels.
        sigma: the standard deviation of its Gaussian, pixels.
        at_once: changed copies of an image in one pass.
    Raises:
        ValueError: no steps, or an even side.
    """

    steps: int = 224
    blur: int = 11
    sigma: float = 5.0
    at_once: int = 32

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: expected 1 or more")
        if self.blur % 2 == 0:
            raise ValueError(f"blur={self.blur}: expected an odd number of pixels")

    def __call__(
        self, network: Any, x: Tensor, targets: Tensor, maps: Tensor, scales: tuple[float, ...] = (1.0,)
    ) -> tuple[Tensor, Tensor]:
        """Both curves, at each of several scales of the logits.

        Args:
            network: (B, C, H, W) -> logits; in evaluation mode.
            x: images (B, C, H, W), normalised: what is deleted is 0, the mean.
            targets: (B,).
            maps: (B, H, W); of equal values the first pixel comes first.
            scales: factors on the logits before the softmax.
        Returns:
            insertion and deletion (B, S, steps + 1): the probability after 0, 1, ... steps.
        """
        place = maps.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(1).view_as(maps)  # 0: the largest
        pixels = place[0].numel()
        counts = torch.arange(self.steps + 1, device=x.device) * pixels // self.steps
        start = blurred(x, self.blur, self.sigma)
        return (
            self._curve(network, x, start, targets, place, counts, scales),
            self._curve(network, torch.zeros_like(x), x, targets, place, counts, scales),
        )

    def _curve(
        self,
        network: Any,
        after: Tensor,
        before: Tensor,
        targets: Tensor,
        place: Tensor,
        counts: Tensor,
        scales: tuple[float, ...],
    ) -> Tensor:
        """(B, S, T): pixels whose place is below the count show `after`, the others `before`."""
        points = []
        for some in counts.split(self.at_once):
            changed = place[:, None] < some[:, None, None]  # (B, t, H, W)
            images = torch.where(changed[:, :, None], after[:, None], before[:, None])  # (B, t, C, H, W)
            z = logits(network, images)  # (B, t, classes)
            index = targets[:, None, None].expand(-1, len(some), 1)
            p = [(scale * z).softmax(2).gather(2, index)[..., 0] for scale in scales]
            points.append(torch.stack(p, 1))  # (B, S, t)
        return torch.cat(points, 2)
