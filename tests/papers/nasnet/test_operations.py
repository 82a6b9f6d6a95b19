"""Operations on hidden states: TensorFlow's padding, shapes, and values written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.nasnet import operations as cell_operations
from modules.nasnet.operations import State, same_padding
from tests.papers.nasnet.helpers import (
    norm,
    parameters,
)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("size", [4, 5, 8, 11])
def test_padding_is_tensorflows_same(kernel: int, size: int) -> None:
    """Windows at stride s begin at s i - before; TensorFlow's output has ceil(n / s), the odd pixel after."""
    x = torch.randn(2, 3, size, size)
    before, after = same_padding(size, kernel, 2)
    assert after - before in (0, 1)
    conv = cell_operations.SameConv2d(3, 4, kernel, 2)
    padded = F.pad(x, (before, after, before, after))
    assert torch.allclose(conv(x), F.conv2d(padded, conv.weight, None, 2), atol=1e-6)
    assert conv(x).shape[-1] == math.ceil(size / 2)
    infinite = F.pad(x, (before, after, before, after), value=-math.inf)
    assert torch.equal(State(x).pooled("max", kernel, 2), F.max_pool2d(infinite, kernel, 2))
    counted = F.avg_pool2d(F.pad(torch.ones_like(x), (before, after, before, after)), kernel, 2)
    assert torch.allclose(State(x).pooled("avg", kernel, 2), F.avg_pool2d(padded, kernel, 2) / counted, atol=1e-6)


def test_the_sides_of_a_map_are_padded_each_by_itself() -> None:
    x = torch.arange(20.0).view(1, 1, 4, 5)
    assert State(x).pooled("max", 3, 2).flatten().tolist() == [11, 13, 14, 16, 18, 19]


def test_an_even_map_is_padded_after() -> None:
    assert same_padding(4, 3, 2) == (0, 1)
    assert same_padding(5, 3, 2) == (1, 1)
    assert same_padding(42, 7, 2) == (2, 3)
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert State(x).pooled("max", 3, 2)[0, 0].tolist() == [[10, 11], [14, 15]]
    assert State(x).pooled("avg", 3, 2)[0, 0].tolist() == [[5, 6.5], [11, 12.5]]


def test_factorized_reduction_by_hand() -> None:
    """On [[1, 2], [3, 4]] with identity convolutions the first path sees 1, the second, shifted by a pixel, 4."""
    reduction = cell_operations.FactorizedReduction(1, 2, lambda channels: nn.Identity())
    for conv in (reduction.conv1, reduction.conv2):
        nn.init.ones_(conv.weight)
    assert reduction(State(torch.tensor([[[[1.0, 2], [3, 4]]]]))).flatten().tolist() == [1, 4]
    odd = reduction(State(torch.arange(1.0, 10).view(1, 1, 3, 3)))
    assert odd[0].tolist() == [[[1, 3], [7, 9]], [[5, 0], [0, 0]]]  # the shifted path sees the padding


def test_an_unused_input_is_reduced_without_a_relu() -> None:
    plain, rectified = (cell_operations.FactorizedReduction(1, 2, lambda _: nn.Identity(), r) for r in (False, True))
    rectified.load_state_dict(plain.state_dict())
    x = -torch.ones(1, 1, 4, 4)
    assert float(rectified(State(x)).abs().max()) == 0
    assert float(plain(State(x)).abs().min()) > 0


def test_a_factorized_reduction_gives_an_odd_channel_to_its_second_path() -> None:
    """As slim's nasnet_utils.factorized_reduction: 11 channels, a quarter of 44 filters, are 5 and 6."""
    reduction = cell_operations.FactorizedReduction(3, 11, norm)
    assert (reduction.conv1.out_channels, reduction.conv2.out_channels) == (5, 6)
    assert reduction(State(torch.randn(2, 3, 8, 8))).shape == (2, 11, 4, 4)


def test_a_separable_convolution_is_applied_twice() -> None:
    """ReLU-dw-pw-BN-ReLU-dw-pw-BN, written out with plain functions; the stride is the first one's."""
    torch.manual_seed(0)
    op = cell_operations.SeparableTwice(3, 4, 5, norm, 2)
    x = torch.randn(2, 3, 9, 9)

    def batch_norm(y: Tensor) -> Tensor:
        variance = y.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-6
        return (y - y.mean((0, 2, 3), keepdim=True)) / variance.sqrt()

    y = F.conv2d(x.relu(), op.depthwise1.weight, None, 2, 2, groups=3)
    y = batch_norm(F.conv2d(y, op.pointwise1.weight))
    y = F.conv2d(y.relu(), op.depthwise2.weight, None, 1, 2, groups=4)
    y = batch_norm(F.conv2d(y, op.pointwise2.weight))
    assert torch.allclose(op(State(x)), y, atol=1e-5)
    assert parameters(op) == 3 * 25 + 3 * 4 + 8 + 4 * 25 + 4 * 4 + 8


@pytest.mark.parametrize("name", cell_operations.OPERATIONS)
@pytest.mark.parametrize(("i", "stride"), [(4, 1), (4, 2), (6, 1), (6, 2)])
def test_every_operation_has_the_cells_shape(name: str, i: int, stride: int) -> None:
    x = torch.randn(2, i, 7, 7)
    out = cell_operations.operation(name, i, 4, stride, norm)(State(x))
    assert out.shape == (2, 4, math.ceil(7 / stride), math.ceil(7 / stride))
    if name == "identity" and (i, stride) == (4, 1):
        assert torch.equal(out, x)


def test_dilated_and_factored_convolutions() -> None:
    x = torch.randn(1, 2, 8, 8)
    dilated = cell_operations.operation("dil3", 2, 2, 1, lambda channels: nn.Identity())
    expected = F.conv2d(x.relu(), dilated.conv.weight, None, 1, 2, 2)  # type: ignore[union-attr]
    assert torch.allclose(dilated(State(x)), expected, atol=1e-6)
    kernels = [
        c.kernel_size
        for c in cell_operations.operation("conv1x7_7x1", 2, 2, 1, norm).modules()
        if isinstance(c, nn.Conv2d)
    ]
    assert kernels == [(1, 7), (7, 1)]
