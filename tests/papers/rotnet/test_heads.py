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


def test_the_linear_probe_is_normalised_by_the_statistics_that_it_kept() -> None:
    head = heads.linear((2, 4, 4), 5, inputs=8).eval()
    mean, variance = torch.tensor([0.5, -1.0]), torch.tensor([4.0, 0.25])
    head[1].running_mean.copy_(mean)  # type: ignore[index, union-attr, operator]
    head[1].running_var.copy_(variance)  # type: ignore[index, union-attr, operator]
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    maxima = F.max_pool2d(x, 2)
    expected = (maxima - mean.view(1, 2, 1, 1)) / variance.view(1, 2, 1, 1).sqrt()
    with torch.no_grad():
        assert torch.allclose(head(x), head[-1](expected.flatten(1)), atol=1e-4)  # type: ignore[index]


@pytest.mark.parametrize("conv", [False, True])
def test_the_rest_of_alexnet_layer_by_layer(conv: bool) -> None:
    """Statistics are 0 and 1; 9 places are left of 7x7."""
    torch.manual_seed(0)
    shape = (4 if conv else 256, 7, 7)
    head = heads.fully_connected(shape, 5, hidden=8, conv=conv).eval()
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    weights = dict(head.named_parameters())
    matrices = [layer for layer in head if isinstance(layer, nn.Linear)]  # type: ignore[attr-defined]
    assert [(layer.in_features, layer.out_features) for layer in matrices] == [(256 * 9, 8), (8, 8), (8, 5)]
    scale = math.sqrt(1 + 1e-5)
    with torch.no_grad():
        z = (F.conv2d(x, weights["0.weight"], weights["0.bias"], padding=1) / scale).relu() if conv else x
        z = F.max_pool2d(z, 3, 2).flatten(1)
        for layer in matrices[:-1]:
            z = (z @ layer.weight.T / scale).relu()
        assert torch.allclose(head(x), matrices[-1](z), atol=1e-5)
