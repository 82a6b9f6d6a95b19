"""The Inception token mixer: limit cases, locality, half precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.iformer.mixer import AttentionBranch, ConvBranch, InceptionMixer, PoolBranch, scaled_linear


def test_without_the_fusing_convolution_only_the_projection_is_left(random: Callable[..., Tensor]) -> None:
    mixer = InceptionMixer(96, 1, pool=2)
    nn.init.zeros_(mixer.depthwise.weight)
    x = random(2, 8, 8, 96)
    fused = torch.cat([b(part) for b, part in zip(mixer.branches.values(), x.split(mixer.widths, -1), strict=True)], -1)
    assert fused.shape[-1] == 32 + 2 * 64
    assert torch.allclose(mixer(x), fused @ mixer.project.weight.T + mixer.project.bias, atol=1e-5)


def test_without_queries_and_keys_every_token_gets_the_mean_value(random: Callable[..., Tensor]) -> None:
    branch = AttentionBranch(2, 32, pool=2)
    nn.init.zeros_(branch.qkv.weight[:128])
    nn.init.zeros_(branch.qkv.bias[:128])
    x = random(2, 8, 8, 64)
    value = branch.qkv(x.view(2, 4, 2, 4, 2, 64).mean((2, 4)))[..., 128:].mean((1, 2), keepdim=True)
    assert torch.allclose(branch(x), value.expand(2, 8, 8, 64), atol=1e-6)


def test_pooled_attention_is_constant_on_its_cells(random: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    y = AttentionBranch(1, 32, pool=2)(random(1, 8, 8, 32))
    cells = y.view(1, 4, 2, 4, 2, 32)
    assert torch.equal(cells, cells[:, :, :1, :, :1].expand_as(cells))
    assert float((cells[:, 0, 0] - cells[:, 1, 0]).detach().abs().min()) > 0


@pytest.mark.parametrize("side", [7, 5])
def test_odd_sides_keep_every_pixel_and_the_mean_of_each_cell(random: Callable[..., Tensor], side: int) -> None:
    torch.manual_seed(0)
    branch = AttentionBranch(1, 8, pool=2)
    x = random(1, side, side, 8)
    y = branch(x)
    assert y.shape == x.shape
    filled = torch.cat([torch.cat([x, x[:, -1:]], 1), torch.cat([x, x[:, -1:]], 1)[:, :, -1:]], 2)  # edge repeated
    assert torch.allclose(branch(filled)[:, :side, :side], y, atol=1e-6)


def test_high_mixers_are_local_and_attention_is_not(random: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    x = random(1, 8, 8, 32)
    moved = x.clone()
    moved[0, 2, 5] += 10
    for branch in (ConvBranch(32), PoolBranch(32)):
        changed = (branch(x) != branch(moved)).any(-1)[0]
        ys, xs = changed.nonzero().unbind(1)
        assert changed.any()
        assert (ys.min() >= 1, ys.max() <= 3, xs.min() >= 4, xs.max() <= 6) == (True,) * 4
    low = AttentionBranch(1, 32, pool=2)
    nn.init.normal_(low.qkv.weight)
    assert (low(x) != low(moved)).any(-1).all()


def test_branches_on_simple_images(random: Callable[..., Tensor]) -> None:
    """Max-pooling moves a slope by one step; a depthwise delta leaves the 1x1 convolution alone."""
    pool, conv = PoolBranch(1), ConvBranch(3)
    nn.init.constant_(pool.expand.weight, 1.0)
    nn.init.zeros_(pool.expand.bias)
    slope = torch.arange(8.0).expand(8, 8)[None, :, :, None]
    moved = torch.arange(1.0, 9.0).clamp(max=7)
    assert torch.allclose(pool(slope)[0, :, :, 0], F.gelu(moved).expand(8, 8))
    with torch.no_grad():
        conv.depthwise.weight.copy_(F.pad(torch.ones(6, 1, 1, 1), (1, 1, 1, 1)))
    x = random(1, 5, 5, 3)
    assert torch.allclose(conv(x), F.gelu(x @ conv.expand.weight.T), atol=1e-6)


def test_scaling_weights_is_layer_scale(random: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    linear, scale = nn.Linear(6, 4), nn.Parameter(random(4))
    x = random(3, 6)
    ours, plain = scaled_linear(x, linear, scale), scale * linear(x)
    assert torch.allclose(ours, plain, atol=1e-6)
    wanted = [scale, *linear.parameters()]
    pairs = zip(
        torch.autograd.grad(ours.sin().sum(), wanted), torch.autograd.grad(plain.sin().sum(), wanted), strict=True
    )
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def rms(x: Tensor) -> float:
    return float(x.detach().float().square().mean().sqrt())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_the_fusing_convolution_keeps_small_weights_in_half_precision(
    random: Callable[..., Tensor], kind: torch.dtype
) -> None:
    """w = 0.02 beside 1 would be rounded to multiples of 2^-8: the filter itself must be what is rounded."""
    torch.manual_seed(0)
    mixer = InceptionMixer(32, 4, head_dim=8)  # attention alone
    nn.init.trunc_normal_(mixer.depthwise.weight, std=0.02)
    seen: list[Tensor] = []
    mixer.depthwise.register_forward_hook(lambda m, i, o: seen.extend((i[0], o)))
    x = random(2, 8, 8, 32)
    with torch.inference_mode(), torch.autocast("cpu", kind):
        mixer(x)
    mixed, filtered = seen
    exact = F.conv2d(mixed.float(), mixer.depthwise.weight, padding=1, groups=32)
    assert filtered.dtype == kind
    assert rms(filtered.float() - exact) < 0.01 * rms(exact)
    rounded = (mixer.depthwise.weight + mixer.identity).to(torch.bfloat16).float() - mixer.identity
    assert rms((rounded - mixer.depthwise.weight)[:, :, 1, 1]) > 0.03 * rms(mixer.depthwise.weight[:, :, 1, 1])


def test_in_full_precision_the_identity_is_folded_into_the_fusing_convolution(random: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    mixer = InceptionMixer(32, 4, head_dim=8)
    called: list[int] = []
    mixer.depthwise.register_forward_hook(lambda m, i, o: called.append(1))
    y = mixer.branches["attention"](random(2, 8, 8, 32)).permute(0, 3, 1, 2)
    expected = mixer.project((y + F.conv2d(y, mixer.depthwise.weight, padding=1, groups=32)).permute(0, 2, 3, 1))
    assert torch.allclose(mixer(random(2, 8, 8, 32)), expected, atol=1e-6)
    assert not called


def test_layer_scale_does_not_underflow_in_float16(random: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 64)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    scale, x = torch.full((64,), 1e-6), random(8, 64)
    expected = scale * linear(x)
    assert not bool((linear.weight * 1e-6).half().float().abs().max() > 1e-7)  # what the weights would become
    for kind in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", kind):
            got = scaled_linear(x, linear, scale)
        assert rms(got.float() - expected) < 0.01 * rms(expected)
