"""Small networks with branches for 12x12 pictures of three classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from datamodules.common.loader import batch_type
from modules.st_protopnet.losses import BranchLoss
from modules.st_protopnet.networks import BranchedNetwork, conv_backbone

LOSSES = {
    "trivial": BranchLoss(separation=0.08, discrimination=1.0),
    "support": BranchLoss(separation=0.48, closeness=1.0),
}


@pytest.fixture
def losses() -> dict[str, BranchLoss]:
    """As published."""
    return LOSSES


@pytest.fixture
def network() -> Callable[..., BranchedNetwork]:
    """Its initial weights depend on the seed."""

    def build(
        seed: int = 0, scores: str = "projection", branches: Mapping[str, int] | None = None, classes: int = 3
    ) -> BranchedNetwork:
        torch.manual_seed(seed)
        backbone = conv_backbone(3, (6, 8), (2, 1), (3, 3))
        return BranchedNetwork(backbone, 8, classes, branches or {"trivial": 2, "support": 2}, 5, scores)

    return build


@pytest.fixture
def batch() -> Any:
    """24 pictures of noise with their classes, rows and masks."""
    x = torch.randn(24, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(24, 12, 12, dtype=torch.uint8)
    mask[:, 3:9, 3:9] = 5
    mask[:, 4:6, 4:6] = 1
    return batch_type(("x", "y", "row", "mask"))(x, torch.arange(24) % 3, torch.arange(24), mask)
