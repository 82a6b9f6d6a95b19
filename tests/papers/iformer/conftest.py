"""What the tests of this paper share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from modules.iformer.networks import IFormer, Layout


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def on_meta(make: Callable[[], IFormer], size: int = 224) -> tuple[IFormer, float]:
    """A network without memory, and its convolutions' and matrix products' mult-adds for one image, in 1e9."""
    with torch.device("meta"):
        network = make().eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, size, size))
    return network, counter.get_total_flops() / 2e9


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny(seed: int = 0, input_size: int = 16, **options: Any) -> IFormer:
    """Two stages of one and two blocks; options of IFormer, all others of its layout."""
    own = {name: options.pop(name) for name in ("patch", "drop_path", "initial_std") if name in options}
    shapes: dict[str, Any] = {"depths": [1, 2], "dims": [32, 48], "heads": [1, [2, 4]], "pools": [2, 1]}
    layout = Layout(**{**shapes, "layer_scale": [None, 1e-6], "head_dim": 8, **options})
    torch.manual_seed(seed)
    return IFormer(layout, classes=5, in_channels=1, input_size=input_size, **{"patch": 2, **own})


@pytest.fixture(name="parameters")
def _parameters() -> Callable[..., int]:
    return parameters


@pytest.fixture(name="on_meta")
def _on_meta() -> Callable[..., tuple[IFormer, float]]:
    return on_meta


@pytest.fixture(name="random")
def _random() -> Callable[..., Tensor]:
    return random


@pytest.fixture(name="tiny")
def _tiny() -> Callable[..., IFormer]:
    return tiny
