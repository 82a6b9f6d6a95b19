"""A small task on features."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

Task = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture
def task() -> Task:
    """Unit features (count, views, 12) and labels of three classes; views of an image differ by noise."""

    def make(views: int = 1, per_view: float = 0.0, count: int = 90) -> tuple[Tensor, Tensor]:
        source = torch.Generator().manual_seed(0)
        y = torch.arange(count) % 3
        base = 2 * torch.eye(3, 12)[y] + torch.randn(count, 12, generator=source)
        noise = per_view * torch.randn(count, views, 12, generator=source)
        return F.normalize(base[:, None] + noise, dim=-1), y

    return make
