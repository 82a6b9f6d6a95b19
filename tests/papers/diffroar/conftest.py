"""What the tests of this paper share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from datamodules.common.base import Fed
from datamodules.common.torchvision_sets import FashionMNIST


@pytest.fixture
def images() -> Callable[..., FashionMNIST]:
    """A few articles of the embedded subset."""

    def make(train: int = 40, test: int = 20, seed: int = 3) -> FashionMNIST:
        return FashionMNIST(8, train_size=train, test_size=test, seed=seed)

    return make


@pytest.fixture
def ranking() -> Callable[..., Any]:
    """What a stage that ranked would feed: rows in which the first coordinates are those of the smallest index."""

    def make(count: int, d: int = 784, kind: str = "logit") -> Fed:
        places = torch.arange(d).expand(count, d).to(torch.int32).numpy().astype("uint16")
        return Fed(torch.nn.Identity(), {kind: places})

    return make
