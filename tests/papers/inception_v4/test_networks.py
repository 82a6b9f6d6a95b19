"""Residual and plain blocks, initial weights, joins."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modules.inception_v4 import architectures
from modules.inception_v4.blocks import Build, Unit
from modules.inception_v4.networks import Plain, Residual
from tests.papers.inception_v4.helpers import LINES, parameters


def test_no_normalisation_on_the_sum_or_the_expansion() -> None:
    block = Residual(8, LINES, Build(), 0.1)
    assert block.expand.bias is not None
    assert sum(isinstance(part, nn.BatchNorm2d) for part in block.modules()) == 4  # the branches' convolutions
    plain = Plain(8, LINES, Build())
    assert sum(isinstance(part, nn.BatchNorm2d) for part in plain.modules()) == 5
    assert parameters(plain) - parameters(block) == 8  # gain and shift for a bias


def test_a_scale_of_zero_passes_the_input_on() -> None:
    """Check 6: the block is ReLU(x), and its branches get no gradient."""
    torch.manual_seed(0)
    block = Residual(8, LINES, Build(), 0.0)
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(block(x), F.relu(x))
    assert torch.equal(block(x.abs()), x.abs())
    block(x).square().sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in block.parameters())


def test_the_sum_is_affine_in_the_scale() -> None:
    torch.manual_seed(0)
    block = Residual(8, LINES, Build(), 0.1, relu=False)
    x = torch.randn(2, 8, 5, 5)
    once = block(x) - x
    block.scale = 0.2
    assert float(once.detach().abs().max()) > 0.01
    assert torch.allclose(block(x) - x, 2 * once, atol=1e-6)
    block.relu = True
    assert torch.allclose(block(x), F.relu(x + 2 * once), atol=1e-6)


def test_a_block_by_hand() -> None:
    """One branch of one 1x1 convolution: every number is known."""
    block = Residual(1, ["1x1 1"], Build(), 0.5).eval()
    with torch.no_grad():
        block.branches[0][0].conv.weight.fill_(2.0)  # type: ignore[index, union-attr]
        block.branches[0][0].bn.running_var.fill_(4.0)  # type: ignore[index, union-attr]
        block.expand.weight.fill_(-3.0)
        block.expand.bias.fill_(1.0)  # type: ignore[union-attr]
    actual = block(torch.tensor([1.0, -1.0]).view(1, 1, 1, 2)).flatten().tolist()
    inner = 2 / (4 + 1e-3) ** 0.5
    assert actual == pytest.approx([max(0.0, 1 + 0.5 * (1 - 3 * inner)), 0.0], abs=1e-6)  # -1 + 0.5 (1 - 0) < 0


def test_initial_weights() -> None:
    torch.manual_seed(0)
    network = architectures.inception_resnet_v1(width=0.5, repeats=(1, 1, 1))
    for unit in (part for part in network.modules() if isinstance(part, nn.Conv2d) and part.weight.numel() > 20_000):
        deviation = (2 / unit.weight[0].numel()) ** 0.5
        assert float(unit.weight.detach().std()) == pytest.approx(deviation, rel=0.03)
        assert float(unit.weight.detach().abs().max()) <= 2 * 1.3**0.5 * deviation + 1e-6
        assert unit.bias is None or not unit.bias.any()


def test_the_narrowest_network_has_one_filter_in_each_convolution() -> None:
    with torch.device("meta"):
        network = architectures.inception_resnet_v1(classes=7, repeats=(1, 1, 1), width=1e-4)
        assert {unit.out_channels for unit in network.modules() if isinstance(unit, Unit)} == {1}
        assert network(torch.zeros(2, 3, 139, 139)).shape == (2, 7)
