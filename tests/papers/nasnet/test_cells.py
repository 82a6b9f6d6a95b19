"""Cells without convolutions, their strides, and what a dropped path takes with it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from modules.nasnet import architectures
from modules.nasnet import operations as cell_operations
from modules.nasnet.cells import Cell, Graph
from modules.nasnet.operations import State
from tests.papers.nasnet.helpers import (
    norm,
)


def test_normal_cell_without_convolutions() -> None:
    """Zero separable convolutions: s5 = 2 avg3(h_{i-1}), and on a constant map 2c up to the border."""
    cell = Cell(architectures.NORMAL_A, [(4, 6), (4, 6)], 4, 1, norm).eval()
    for part in cell.modules():
        if isinstance(part, cell_operations.SeparableTwice):
            nn.init.zeros_(part.pointwise2.weight)
    nn.init.dirac_(cell.adapt[0].conv.weight)  # type: ignore[union-attr, arg-type]
    previous = torch.full((1, 4, 6, 6), 3.0)
    current = torch.rand(1, 4, 6, 6)
    out = cell([State(current), State(previous)])[0].raw  # (1, 24, 6, 6): h_{i-1}, s2 .. s6
    h, s2, s3, s4, s5, s6 = out.split(4, 1)
    average = F.avg_pool2d(current, 3, 1, 1, count_include_pad=False)
    assert torch.equal(h, previous)
    assert float(torch.cat([s2, s3]).detach().abs().max()) == 0
    assert torch.allclose(s4, average + previous)
    assert torch.allclose(s5, torch.full_like(s5, 6.0))
    assert torch.allclose(s6, current)


def test_stride_is_on_the_cells_inputs_alone() -> None:
    cell = Cell(architectures.REDUCTION_A, [(8, 8), (8, 8)], 4, 2, norm)
    strides = [
        op.depthwise1.stride[0]
        if isinstance(op, cell_operations.SeparableTwice)
        else getattr(op, "options", (0, 0, 1))[2]
        for op in cell.operations
    ]
    assert strides == [2, 2, 2, 2, 2, 2, 1, 1, 1, 2]
    assert architectures.REDUCTION_A.outputs == (3, 4, 5, 6)  # 3 although state 5 reads it
    assert Graph.of(architectures.REDUCTION_A.blocks).outputs == (4, 5, 6)
    assert (architectures.NORMAL_A.multiple, architectures.REDUCTION_A.multiple) == (6, 4)


def test_a_dropped_path_is_gone_for_that_image_and_identities_never_drop() -> None:
    cell = Cell(architectures.NORMAL_A, [(4, 6), (4, 6)], 4, 1, norm).train()
    inputs = [torch.randn(3, 4, 6, 6), torch.randn(3, 4, 6, 6)]
    masks = torch.ones(8, 3, 1, 1, 1)
    masks[:, 1] = 0  # every path of the second image
    whole = cell([State(x) for x in inputs])[0].raw
    out = cell([State(x) for x in inputs], masks)[0].raw
    assert torch.allclose(out[[0, 2]], whole[[0, 2]])
    h, s2, s3, s4, s5, s6 = out[1].split(4)
    assert float(torch.stack([s2, s3, s5]).detach().abs().max()) == 0
    assert torch.equal(s4, h)
    assert torch.allclose(s6, cell.adapt[0](State(inputs[0]))[1], atol=1e-6)


def test_masks_promote_no_mixed_precision() -> None:
    cell = Cell(architectures.NORMAL_A, [(4, 6), (4, 6)], 4, 1, norm).to(torch.bfloat16).train()
    inputs = [State(torch.randn(2, 4, 6, 6, dtype=torch.bfloat16)) for _ in range(2)]
    assert cell(inputs, torch.full((8, 2, 1, 1, 1), 1.25))[0].raw.dtype == torch.bfloat16
