"""What the tests of Inception-v4 share: small networks, batches, counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from modules.common.module import StageModule
from modules.inception_v4.networks import Grid, Inception

LINES = ("1x1 4", "1x1 4 - 1x3 4 - 3x1 6")


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def multiply_adds(module: nn.Module, shape: tuple[int, ...]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(torch.zeros(1, *shape, device="meta"))
    return counter.get_total_flops() / 2e9


def small(join: str = "residual", seed: int = 0, **options: Any) -> Inception:
    torch.manual_seed(seed)
    grids = [Grid(LINES, 2, scale=0.2), Grid(LINES, 1, ["3x3/2 12"], 0.2)]
    return Inception([["3x3 8"], ["max"]], grids, 10, 1, join, **options)


def batch(count: int = 8, seed: int = 1) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 1, 12, 12, generator=torch.Generator().manual_seed(seed)), torch.arange(count) % 10


def quiet(module: StageModule) -> dict[str, float]:
    logged: dict[str, float] = {}
    module.log_dict = lambda values: logged.update({k: float(v) for k, v in values.items()})  # type: ignore[assignment, misc]
    return logged
