"""The heads of probes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modules.rotnet import heads, networks


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_linear_probe_takes_maxima_and_scales_nothing() -> None:
    head = heads.linear((3, 6, 6), 10, inputs=27).eval()
    assert parameters(head) == 27 * 10 + 10  # the linear layer's: the norm has none
    x = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    dense = head[-1]  # type: ignore[index]
    with torch.no_grad():
        maxima = F.max_pool2d(x, 2).flatten(1)  # 6x6 -> 3x3
        assert torch.allclose(head(x), dense(maxima / math.sqrt(1 + 1e-5)), atol=1e-5)


def test_initial_weights_of_probes() -> None:
    head = heads.conv_block((64, 4, 4), 10)
    library = [p.clone() for p in head.parameters()]
    networks.initialise(head, "library", dense=True)
    assert all(torch.equal(a, b) for a, b in zip(library, head.parameters(), strict=True))
    torch.manual_seed(0)
    networks.initialise(head, "he", dense=True)
    assert float(head[0].weight.detach().std()) == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.02)  # type: ignore[index]
    assert float(head[-1].weight.detach().std()) == pytest.approx(math.sqrt(2 / 10), rel=0.1)  # type: ignore[index]
    assert float(head[-1].bias.detach().abs().max()) == 0  # type: ignore[index]
