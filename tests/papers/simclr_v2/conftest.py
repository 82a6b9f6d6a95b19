"""A small network, its phases and 8x8 images, for all tests of the paper."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.simclr_v2.lars import LARS
from modules.simclr_v2.module import Pretraining
from modules.simclr_v2.networks import ResNet

Pair = namedtuple("Pair", ("x", "y", "x2"))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def small() -> Callable[..., ResNet]:
    """The smallest network: 32 features."""

    def build(seed: int = 0) -> ResNet:
        torch.manual_seed(seed)
        return ResNet([1, 1], 0.0625, in_channels=1, stem="small")

    return build


@pytest.fixture
def pretraining(small: Callable[..., ResNet]) -> Callable[..., Pretraining]:
    def build(seed: int = 0, **options: Any) -> Pretraining:
        optimizer = partial(LARS, lr=1.0, weight_decay=1e-4)
        return Pretraining(small(seed), 10, {"layers": 3, "outputs": 16}, optimizer=optimizer, **options)  # type: ignore[arg-type]

    return build


@pytest.fixture
def pairs() -> Pair:
    """Two views of 12 images and their labels."""
    return Pair(noise(12, 1, 8, 8), torch.arange(12) % 10, noise(12, 1, 8, 8, seed=1))
