"""Lines as drawn, and what they are read as."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modules.inception_v4.blocks import Build, Mixed, Unit


def test_a_line_by_hand() -> None:
    branch = Build(width=0.5).branch(6, "avg - 1x1 64 - 1x7 96 - 3x3/2V 128 - (1x3 256 | 3x1 256)")
    pool, one, row, strided, fork = branch
    assert isinstance(pool, nn.AvgPool2d)
    assert (one.conv.in_channels, one.conv.out_channels, one.conv.kernel_size) == (6, 32, (1, 1))  # type: ignore[union-attr]
    assert (row.conv.kernel_size, row.conv.padding) == ((1, 7), (0, 3))  # type: ignore[union-attr]
    assert (strided.conv.stride, strided.conv.padding) == ((2, 2), (0, 0))  # type: ignore[union-attr]
    assert isinstance(fork, Mixed)
    assert branch.out_channels == fork.out_channels == 256
    assert branch(torch.randn(2, 6, 15, 15)).shape == (2, 256, 7, 7)
    assert all(p.conv.bias is None and p.bn.eps == 1e-3 for p in branch.modules() if isinstance(p, Unit))


def test_batch_norms_move_by_the_networks_momentum() -> None:
    """One batch of mean 1 and variance 4: running values move from 0 and 1 by a quarter of the way."""
    (unit,) = Build(momentum=0.25).branch(1, "1x1 1")
    with torch.no_grad():
        unit.conv.weight.fill_(1.0)  # type: ignore[union-attr, operator]
    unit.train()(torch.tensor([-1.0, 3.0]).view(2, 1, 1, 1).repeat(1, 1, 20, 20))
    assert float(unit.bn.running_mean) == pytest.approx(0.25)  # type: ignore[union-attr, arg-type]
    assert float(unit.bn.running_var) == pytest.approx(1 + 0.25 * 3, rel=1e-2)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("line", ["1x1", "3x3/2v 96", "pool", "(1x3 4 | 3x1 4) - 1x1 4", "1x1 4-3x3 4"])
def test_a_line_that_cannot_be_read(line: str) -> None:
    with pytest.raises(ValueError, match="is no step; expected"):
        Build().branch(3, line)


def test_average_pooling_leaves_out_the_padding() -> None:
    (pool,) = Build().branch(1, "avg")
    assert torch.equal(pool(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))
