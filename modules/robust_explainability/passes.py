"""Many changed copies of images through a network, in passes of a size that a processor's cache holds the maps of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IMAGES = 128  # in one pass


def logits(network: Any, x: Tensor) -> Tensor:
    """What a network in evaluation mode says of images: (..., C, H, W) -> (..., classes), float32."""
    images = x.flatten(0, -4)
    parts = [network(part) for part in images.split(IMAGES)]
    return torch.cat(parts).float().unflatten(0, x.shape[:-3])
