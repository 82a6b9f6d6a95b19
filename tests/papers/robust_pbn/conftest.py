"""What the tests of this paper share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from modules.robust_pbn.heads import StableCBC
from modules.robust_pbn.networks import Components, DetectionNetwork


class Small(DetectionNetwork):
    """A network of few components in few dimensions, whose decisions are not all alike."""

    def __init__(self, head: Any = StableCBC, features: int = 5, count: int = 6, classes: int = 3, **options: Any):
        given: dict[str, Any] = {"sigma": 1.0, "per_class": 1, **options}
        components = given.pop("components", None) or Components(count, features)
        super().__init__(components, classes, given.pop("per_class"), head, given.pop("sigma"), **given)
        with torch.no_grad():
            self.components.points.copy_(torch.rand(count, features))
            self.spread.copy_(given.get("sigma", 1.0) * (0.5 + torch.rand(count)))
            for parameter in self.head.parameters():
                parameter.add_(1.5 * torch.randn_like(parameter))
            self.head.constrain()


@pytest.fixture
def small() -> Callable[..., DetectionNetwork]:
    return partial(Small)


@pytest.fixture
def hand() -> tuple[Tensor, Tensor, Tensor]:
    """d, r+, r- of two components and two concepts, with p = (0.74, 0.31)."""
    d = torch.tensor([[0.9, 0.2]])
    positive = torch.tensor([[0.7, 0.1], [0.1, 0.6]])
    negative = torch.tensor([[0.1, 0.2], [0.1, 0.1]])
    return d, positive, negative
