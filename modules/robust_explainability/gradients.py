"""Attribution methods that follow the gradient to the input or to the last maps.

Each is a frozen set of options; called with a network, images and targets it gives a map for each image, (B, H, W), the
larger the more important. Gradient-based maps are summed as absolute values over channels. All of them need
the batch norms in evaluation mode and no `inference_mode`; see explain.explain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from captum.attr import IntegratedGradients as CaptumIntegratedGradients
from captum.attr import LayerGradCam
from torch import Tensor
from torch.nn import functional as F

from modules.common.attributions import logit_gradient
from modules.robust_explainability.passes import logits


def flat(signed: Tensor) -> Tensor:
    """Sum of absolute values over channels: (B, C, H, W) -> (B, H, W)."""
    return signed.abs().sum(1)


def enlarged(maps: Tensor, side: Any) -> Tensor:
    """(B, h, w) -> (B, H, W), bilinear."""
    return F.interpolate(maps[:, None], side, mode="bilinear", align_corners=False)[:, 0]


@dataclass(frozen=True)
class Gradient:
    """|d f_c / d x| (Simonyan et al. 2013)."""

    def __call__(self, network: Any, x: Tensor, targets: Tensor) -> Tensor:
        return flat(logit_gradient(network, x, targets))


@dataclass(frozen=True)
class InputXGradient:
    """|x d f_c / d x|; x = 0 is the mean, which contributes nothing (Shrikumar et al. 2016)."""

    def __call__(self, network: Any, x: Tensor, targets: Tensor) -> Tensor:
        return flat(x * logit_gradient(network, x, targets))


@dataclass(frozen=True)
class SmoothGrad:
    """|mean of d f_c / d x over noisy copies of x| (Smilkov et al. 2017). All images get the same noise.

    Args:
        samples: noisy copies.
        sigma: standard deviation of the noise, in units of the network's input.
        seed: of the noise.
    """

    samples: int = 50
    sigma: float = 0.6
    seed: int = 0

    def __call__(self, network: Any, x: Tensor, targets: Tensor) -> Tensor:
        source = torch.Generator().manual_seed(self.seed)
        total = torch.zeros_like(x)
        for _ in range(self.samples):
            noise = torch.randn(x.shape[1:], generator=source).to(x.device)
            total += logit_gradient(network, x + self.sigma * noise, targets)
        return flat(total / self.samples)


@dataclass(frozen=True)
class IntegratedGradients:
    """|x times the mean gradient on the way from 0, the mean, to x| (Sundararajan et al. 2017).

    Args:
        steps: midpoints.
        at_once: images times steps in one pass.
    Raises:
        ValueError: fewer than two steps.
    """

    steps: int = 64
    at_once: int = 256

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps={self.steps}: expected 2 or more")

    def signed(self, network: Any, x: Tensor, targets: Tensor) -> Tensor:
        """(B, C, H, W); its sum is f_c(x) - f_c(0) but for the steps' error."""
        method = CaptumIntegratedGradients(network)
        at_once = max(self.at_once, len(x))
        return method.attribute(
            x, 0.0, target=targets, n_steps=self.steps, method="riemann_middle", internal_batch_size=at_once
        ).to(x.dtype)

    def __call__(self, network: Any, x: Tensor, targets: Tensor) -> Tensor:
        return flat(self.signed(network, x, targets))


@dataclass(frozen=True)
class GradCAM:
    """ReLU( sum_k w_k A^k ), w_k = mean_ij d f_c / d A^k_ij, of the last maps (Selvaraju et al. 2017)."""

    def __call__(self, network: Any, x: Tensor, targets: Tensor) -> Tensor:
        cam = LayerGradCam(network, network.features).attribute(x, target=targets, relu_attributions=True)
        return enlarged(cam[:, 0].detach(), x.shape[2:])  # (B, 1, h, w) before


def stretched(maps: Tensor) -> Tensor:
    """Each map (..., H, W) between 0 and 1; a constant one becomes 0."""
    low = maps.amin((-2, -1), keepdim=True)
    high = maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


@dataclass(frozen=True)
class ScoreCAM:
    """ReLU( sum_k w_k A^k ), w = softmax_k( f_c(x * mask_k) - f_c(0) ) (Wang et al. 2020).

    mask_k is A^k enlarged and stretched to [0, 1]; f_c is the logit.

    Args:
        at_once: maps that mask an image in one pass.
    """

    at_once: int = 64

    def __call__(self, network: Any, x: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            features = network.features(x)  # (B, K, h, w)
            base = network(torch.zeros_like(x[:1]))[0][targets]  # (B,)
            scores = []
            for part in features.split(self.at_once, 1):
                masks = stretched(
                    F.interpolate(part, x.shape[2:], mode="bilinear", align_corners=False)
                )  # (B, k, H, W)
                masked = x[:, None] * masks[:, :, None]  # (B, k, C, H, W)
                index = targets[:, None, None].expand(-1, masks.shape[1], 1)
                scores.append(logits(network, masked).gather(2, index)[..., 0])  # (B, k)
            weights = (torch.cat(scores, 1) - base[:, None]).softmax(1)
            cam = torch.einsum("bk,bkhw->bhw", weights, features).relu()
            return enlarged(cam, x.shape[2:])
