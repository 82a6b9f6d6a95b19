"""A small ProtoPNet for 12x12 pictures of three classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from datamodules.common.loader import batch_type
from modules.common.protopnet import ProtoPNet
from modules.explaining_prototypes.networks import small_backbone


@pytest.fixture
def network() -> Callable[..., ProtoPNet]:
    """Its initial weights depend on the seed."""

    def build(seed: int = 0, classes: int = 3, per_class: int = 2) -> ProtoPNet:
        torch.manual_seed(seed)
        return ProtoPNet(small_backbone(3, (6, 8), (2, 1), (3, 3)), 8, classes, per_class, 5)

    return build


@pytest.fixture
def batch() -> Any:
    """24 pictures of noise with their classes and rows."""
    x = torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    return batch_type(("x", "y", "row"))(x, torch.arange(24) % 3, torch.arange(24))
