"""A small RotNet, its probes and 8x8 images, for all tests of the paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.common.loader import batch_type
from modules.rotnet import heads, networks
from modules.rotnet.module import RotNet
from modules.rotnet.probe import Probe


@pytest.fixture
def sizes() -> dict[str, Any]:
    """Arguments of the smallest network in network."""
    return {"in_channels": 1, "input_size": 8, "widths": [6, 5, 4, 7]}


@pytest.fixture
def small(sizes: dict[str, Any]) -> Callable[..., RotNet]:
    """A RotNet of that size whose initial weights depend on the seed."""

    def build(seed: int = 0, blocks: int = 3, **options: Any) -> RotNet:
        torch.manual_seed(seed)
        return RotNet(networks.nin(blocks=blocks, **sizes), heads.pooled, **options)

    return build


@pytest.fixture
def probe() -> Callable[..., Probe]:
    """Non-linear probes of some blocks, for 10 classes."""

    def build(source: RotNet, blocks: Sequence[int] = (1, 2, 3), **options: Any) -> Probe:
        return Probe(source, 10, {f"block{n}": heads.mlp for n in blocks}, **options)

    return build


@pytest.fixture
def images() -> Callable[..., Tensor]:
    """Noise, (count, 1, 8, 8)."""

    def draw(count: int = 12, seed: int = 1) -> Tensor:
        return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))

    return draw


@pytest.fixture
def labelled(images: Callable[..., Tensor]) -> Any:
    """A batch of 12."""
    return batch_type(("x", "y"))(images(), torch.arange(12) % 10)
