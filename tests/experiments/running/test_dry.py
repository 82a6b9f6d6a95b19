"""What a dry run counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.running.counting import multiply_adds
from experiments.running.dry import part_of_the_recipe
from experiments.running.plan import Plan
from modules.common.module import StageModule


class Attention(StageModule):
    """Queries, keys and values by one linear layer; two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, 8)
        q, k, v = self.qkv(tokens).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)  # (B, 2, N, 4) each
        return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("side", [4, 16])
def test_attention_on_cpus_is_counted(side: int) -> None:
    """Both products with N x N attention of two heads, beside the linear layer."""
    n = side * side
    expected = n * 8 * 24 + 2 * (2 * n * n * 4)
    for device in ("cpu", "meta"):
        network = Attention().to(device)
        assert multiply_adds(network, torch.zeros(1, 8, side, side, device=device)) == expected


def test_stages_that_a_recipe_neither_fits_nor_tests_are_built_only_for_others(make_plan: Callable[..., Plan]) -> None:
    this = make_plan("paper=vit_vqgan", "scale=full", "variant=celeba_hq")
    shortened = part_of_the_recipe(this)
    assert not this.stages["features"].fit
    assert not this.stages["features"].test
    assert "features" in shortened  # measures what others reconstruct
    assert {"vanilla", "vim_vanilla", "probe_vanilla", "gan_late"}.isdisjoint(shortened)
