"""A small network, small data and a finished stage to feed with, for all tests of the paper."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from datamodules.common.base import Fed
from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.g_simclr.images import GuidedBatches, Sampling, UnitImages
from modules.g_simclr.module import GSimCLR
from modules.g_simclr.networks import CifarResNet


@pytest.fixture
def small() -> Callable[..., GSimCLR]:
    """Encoder and head for 28x28 grey images, whose initial weights depend on the seed."""

    def build(seed: int = 0, **options: Any) -> GSimCLR:
        torch.manual_seed(seed)
        return GSimCLR(CifarResNet(1, 4, 2, (4, 6, 8), 1), (7, 6, 5), **options)

    return build


@pytest.fixture
def guided() -> Callable[..., GuidedBatches]:
    """Guided batches of 60 embedded images in 6 clusters of unequal size, set up."""

    def build(sampler: str = "strict", batch_size: int = 6, reshuffle: bool = True, **options: Any) -> GuidedBatches:
        clusters = np.repeat(np.arange(6), [2, 5, 8, 10, 15, 20])
        data = GuidedBatches(
            FashionMNIST(batch_size, train_size=60, val_size=0, test_size=20),
            batch_size,
            Fed(nn.Identity(), {"clusters": clusters}),
            Sampling(sampler, reshuffle),
            **options,
        )
        data.setup()
        return data

    return build


@pytest.fixture
def images() -> UnitImages:
    """60 training, 20 validation and 20 test images with their row numbers, set up."""
    data = UnitImages(FashionMNIST(10, train_size=60, val_size=20, test_size=20), 10, rows=True)
    data.setup()
    return data


@pytest.fixture
def attach(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Give a module a trainer that knows a datamodule and sums over one process."""

    def give(module: Any, data: Any = None, **attributes: Any) -> Any:
        strategy = SimpleNamespace(reduce=lambda value, reduce_op: value)
        trainer = SimpleNamespace(datamodule=data, strategy=strategy, should_stop=False, **attributes)
        monkeypatch.setattr(type(module), "trainer", trainer, raising=False)
        return trainer

    return give
