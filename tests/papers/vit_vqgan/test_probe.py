"""The linear probe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from datamodules.common.loader import batch_type
from modules.vit_vqgan.probe import LinearProbe
from modules.vit_vqgan.vim import Vim


def test_probe_sees_the_average_of_a_block_and_no_class(vim: Callable[..., Vim]) -> None:
    frozen = vim().eval()
    probe = LinearProbe(frozen, 5, block=1, blocks=[1, 2], optimizer=partial(torch.optim.SGD, lr=0.1))
    x = torch.rand(3, 1, 8, 8)
    h = frozen.embed(frozen.tokenize(x))
    features = frozen.blocks[0](h).mean(1)
    assert torch.allclose(probe(x), probe.heads["block1"](features), atol=1e-6)
    assert sum(p.numel() for p in probe.parameters()) == 2 * (16 * 5 + 5)
    probe.training_step(batch_type(("x", "y"))(x, torch.tensor([0, 1, 4])), 0).backward()
    assert all(p.grad is not None for p in probe.parameters())
    assert all(p.grad is None for p in frozen.parameters())
    with pytest.raises(ValueError, match="expected 3 among them"):
        LinearProbe(frozen, 5, block=3, blocks=[1, 2])
