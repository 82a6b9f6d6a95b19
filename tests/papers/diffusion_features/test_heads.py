"""Heads at published size, and what they compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modules.diffusion_features.heads import AttentionHead, cnn, mlp

MAP = (1024, 16, 16)  # block 24 of the published network


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("pool", "parameters"), [(1, 1_025_000), (2, 4_097_000), (4, 16_385_000), (8, 65_537_000)])
def test_published_sizes_of_linear_heads(pool: int, parameters: int) -> None:
    with torch.device("meta"):
        assert count(mlp(MAP, 1000, pool)) == parameters


def test_published_size_of_the_attention_head() -> None:
    with torch.device("meta"):
        head = AttentionHead(MAP, 1000)
        assert head(torch.zeros(2, *MAP)).shape == (2, 1000)
    assert count(head) == 27_786_216
    assert count(head.blocks) + head.token.numel() == 25_187_328
    assert (count(head.norm), count(head.project), count(head.classify)) == (524_288, 1_049_600, 1_025_000)


@pytest.mark.parametrize(("blocks", "least", "most"), [(1, 14e6, 16e6), (5, 63e6, 66e6)])
def test_range_of_attention_heads(blocks: int, least: float, most: float) -> None:
    """14 to 64 M for 1 to 5 blocks on 50 classes, by the paper's plot."""
    with torch.device("meta"):
        assert least < count(AttentionHead(MAP, 50, blocks=blocks)) < most


def test_linear_at_one_place_is_the_mean_then_linear() -> None:
    head, x = mlp((5, 4, 4), 3), torch.randn(2, 5, 4, 4)
    assert torch.allclose(head(x), head[2](x.mean((2, 3))), atol=1e-6)


@pytest.mark.parametrize("pool", [1, 2, 4, 8])
def test_pooling_a_constant_map_returns_it(pool: int) -> None:
    head = mlp((5, 8, 8), 3, pool)
    x = torch.randn(2, 5, 1, 1).expand(-1, -1, 8, 8)
    assert torch.allclose(head[0](x), x[:, :, :pool, :pool], atol=1e-6)
    assert head[2].in_features == 5 * pool**2


def test_a_pool_that_is_larger_than_the_map_leaves_it() -> None:
    x = torch.randn(2, 5, 4, 4)
    for head in (mlp((5, 4, 4), 3, 16), cnn((5, 4, 4), 3, 16, (6,)), AttentionHead((5, 4, 4), 3, 16, 8, 1, 2)):
        assert head(x).shape == (2, 3)
    assert AttentionHead((5, 4, 4), 3, 16, 8, 1, 2).norm.normalized_shape == (5, 4, 4)


def test_hidden_layers() -> None:
    head = mlp((5, 4, 4), 3, 1, (7, 6))
    assert [layer.out_features for layer in head if isinstance(layer, nn.Linear)] == [7, 6, 3]
    assert sum(isinstance(layer, nn.ReLU) for layer in head) == 2


def test_attention_by_plain_products() -> None:
    torch.manual_seed(0)
    head = AttentionHead((5, 3, 3), 4, 3, 8, 1, 2)
    nn.init.normal_(head.token)
    x = torch.randn(2, 5, 3, 3)
    tokens = head.project(head.norm(x)).flatten(2).transpose(1, 2)
    tokens = torch.cat([head.token.expand(2, 1, 8), tokens], 1)  # (2, 10, 8)
    block = head.blocks[0]
    q, k, v = block.qkv(block.norm1(tokens)).chunk(3, -1)  # (2, 10, 8), heads are neighbours in the channels
    mixed = [(q[..., s] @ k[..., s].transpose(1, 2) / 2).softmax(-1) @ v[..., s] for s in (slice(0, 4), slice(4, 8))]
    tokens = tokens + block.project(torch.cat(mixed, -1))
    tokens = tokens + block.mlp[2](F.gelu(block.mlp[0](block.norm2(tokens))))
    assert torch.allclose(head(x), head.classify(tokens[:, 0]), atol=1e-5)


def test_places_have_no_order() -> None:
    head, x = AttentionHead((5, 3, 3), 4, 3, 8, 2, 2), torch.randn(1, 5, 3, 3)
    assert torch.allclose(head(x), head(x.transpose(2, 3)), atol=1e-5)  # the norm's weights start at 1
