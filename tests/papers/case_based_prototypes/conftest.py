"""What the tests of this paper share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from datamodules.common.torchvision_sets import FashionMNIST
from modules.case_based_prototypes.module import CaseBased
from modules.case_based_prototypes.networks import CaseBasedNetwork, Convolutions


def network(seed: int = 0, **options: Any) -> CaseBasedNetwork:
    """The published network, from the random state of a seed; options that Convolutions has go there."""
    published: dict[str, Any] = {"channels": 1, "size": 28, "classes": 10, "units": 15}
    chosen = {name: options.pop(name) for name in list(options) if name in Convolutions.__dataclass_fields__}
    convolutions = Convolutions(**{"widths": [32, 32, 32, 10], "act": "relu", **chosen})
    torch.manual_seed(seed)
    return CaseBasedNetwork(**{**published, "convolutions": convolutions, **options})


def lively(**options: Any) -> CaseBasedNetwork:
    """With weights as large as after training: with the published 0.01 all codes are nearly 0."""
    net = network(**options)
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.2)
    return net


def batch(n: int = 6) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(7)
    return torch.rand(n, 1, 28, 28, generator=source), torch.randint(10, (n,), generator=source)


def parameters(module: nn.Module | None) -> int:
    return sum(p.numel() for p in module.parameters()) if module is not None else 0


def score(module: CaseBased, data: FashionMNIST) -> dict[str, float]:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", devices=1, use_distributed_sampler=False, **quiet)
    (metrics,) = trainer.test(module, datamodule=data, verbose=False)
    return dict(metrics)


@pytest.fixture(name="network")
def _network() -> Callable[..., CaseBasedNetwork]:
    return network


@pytest.fixture(name="lively")
def _lively() -> Callable[..., CaseBasedNetwork]:
    return lively


@pytest.fixture(name="batch")
def _batch() -> Callable[..., tuple[Tensor, Tensor]]:
    return batch


@pytest.fixture(name="parameters")
def _parameters() -> Callable[..., int]:
    return parameters


@pytest.fixture(name="score")
def _score() -> Callable[..., dict[str, float]]:
    return score
