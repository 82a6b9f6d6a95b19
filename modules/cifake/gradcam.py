"""Grad-CAM for a network with one output (Selvaraju et al. 2017).

    map = ReLU( sum_k w_k A^k ),   w_k = mean_ij d y / d A^k_ij

y is the logit for the evidence of "generated", and minus the logit for that of "real": the sigmoid's own gradient would
vanish where the network is sure.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

SIGNS = {"fake": 1.0, "real": -1.0}  # evidence of what -> sign of the logit


def grad_cam(network: Any, x: Tensor, sign: float) -> Tensor:
    """Maps of non-negative numbers at the size of the images, in fp32; works within inference_mode.

    Args:
        network: with `maps`, x to A (B, K, s, s), and `read`, A to logits (B, 1).
        x: (B, C, H, W).
        sign: 1 for evidence of "generated", -1 for that of "real".
    Returns:
        (B, H, W), enlarged bilinearly.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(x.device.type, enabled=False):
        maps = network.maps(x.detach().float().clone()).detach().requires_grad_()
        score = sign * network.read(maps).sum()  # of images that do not depend on each other
        (gradient,) = torch.autograd.grad(score, maps)
        weights = gradient.mean((2, 3))  # (B, K)
        cam = torch.einsum("bk,bkhw->bhw", weights, maps.detach()).relu()
    return F.interpolate(cam[:, None], x.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def stretched(maps: Tensor) -> Tensor:
    """Each map (B, H, W) from 0 to 1; one that is the same everywhere becomes 0."""
    low = maps.amin((1, 2), keepdim=True)
    high = maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)


def energy_share(maps: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
    """Share of each map's sum that lies in its region.

    Args:
        maps: (B, H, W), not negative.
        region: (B, H, W) bool.
    Returns:
        percent (B,), 0 for a map that is 0 everywhere; and which maps are not, (B,) bool.
    """
    total = maps.double().sum((1, 2))
    inside = (maps.double() * region).sum((1, 2))
    there = total > 0
    return 100 * inside / torch.where(there, total, torch.ones_like(total)), there
