"""What the tests of InceptionNeXt share: small networks, known numbers, random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from modules.inception_next.module import InceptionDWConv
from modules.inception_next.networks import MetaNeXt, Stem


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def tensor(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def small(**options: Any) -> MetaNeXt:
    torch.manual_seed(0)
    defaults: dict[str, Any] = {"mixer": InceptionDWConv, "mlp_ratios": 4, "stem": Stem(1, 2), "classes": 10}
    return MetaNeXt((1, 2), (16, 24), **{**defaults, **options})


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights, scales and batch statistics that leave no part of the network invisible in its output."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if not value.is_floating_point():
                continue
            if name.endswith(("running_var", "gamma")) or (value.ndim == 1 and name.endswith("weight")):
                value.copy_(0.5 + torch.rand(value.shape, generator=source))
            elif value.ndim > 1:  # keeps the scale of activations over many blocks
                fan = value[0].numel()
                value.copy_(0.6 * torch.randn(value.shape, generator=source) * fan**-0.5)
            else:
                value.copy_(0.2 * torch.randn(value.shape, generator=source))
    return network.eval()


COUNTS = {"atto": 4_156_520, "tiny": 28_055_680, "small": 49_374_016, "base": 86_672_136}


CONVNEXT = {"atto": 3_695_520, "tiny": 28_589_128, "small": 50_223_688, "base": 88_591_464}
