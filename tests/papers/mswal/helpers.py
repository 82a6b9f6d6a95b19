"""Small networks and label maps that the tests of MSWAL share."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.mswal.networks import InceptionNnunet, build_network


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small_network(kind: type[nn.Module] = InceptionNnunet, classes: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_network(partial(kind, n_blocks_per_stage=[1, 2, 2]), [8, 16, 32], classes)


def randomise(module: nn.Module, seed: int = 1) -> nn.Module:
    """The module with every parameter random, norms too."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.normal_(0, 0.3)
    return module


def labels(*shape: int, classes: int = 4, seed: int = 0) -> Tensor:
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed))


def one_hot(label: Tensor, classes: int = 4) -> Tensor:
    return F.one_hot(label, classes).movedim(-1, 1)
