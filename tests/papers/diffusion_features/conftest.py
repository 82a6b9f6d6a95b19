"""A tiny diffusion model of 8x8 pictures, its untrained twin and a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from datamodules.common.loader import batch_type
from modules.common.diffusion import NoiseSchedule
from modules.common.unet import UNet
from modules.diffusion_features.sources import Diffusion


@pytest.fixture
def model() -> Callable[..., Diffusion]:
    """13 blocks, the middle one is 7; weights depend on the seed."""

    def build(seed: int = 0, **options: Any) -> Diffusion:
        torch.manual_seed(seed)
        network = UNet(8, 1, 8, (1, 2, 2), 1, (), 4, 4, **{"zero": False, **options})
        return Diffusion(network, NoiseSchedule(), decay=None)

    return build


@pytest.fixture
def batch() -> Any:
    """60 pictures of three classes: noise around stripes, a ramp and a square."""
    source = torch.Generator().manual_seed(1)
    stripes = torch.arange(8).remainder(2).float().expand(8, 8)
    ramp = torch.linspace(-1, 1, 8).expand(8, 8)
    square = torch.zeros(8, 8)
    square[2:6, 2:6] = 1
    y = torch.arange(60) % 3
    x = torch.stack([stripes, ramp, square])[y][:, None] + 0.3 * torch.randn(60, 1, 8, 8, generator=source)
    return batch_type(("x", "y"))(x.clamp(-1, 1), y)
