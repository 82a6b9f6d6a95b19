"""The independent checks of iFormer: published sizes, a second implementation, limit cases, spectra, the recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from experiments import claims, training
from experiments.plan import Plan
from modules.common.schedules import Position
from modules.iformer import networks
from modules.iformer.module import IFormerClassifier
from modules.iformer.networks import AttentionBranch, ConvBranch, IFormer, InceptionMixer, PoolBranch, branch_outputs
from modules.iformer.spectra import FLOOR, averaged, high_frequency, radial

SIZES = {  # the sheet's table: depths, dims, attention heads of every block
    "s": ([3, 3, 9, 3], [96, 192, 320, 384], [1] * 3 + [3] * 3 + [7] * 4 + [9] * 5 + [11] * 3),
    "b": ([4, 6, 14, 6], [96, 192, 384, 512], [1] * 4 + [3] * 6 + [8] * 7 + [10] * 7 + [15] * 6),
    "l": ([4, 6, 18, 8], [96, 192, 448, 640], [1] * 4 + [3] * 6 + [10] * 9 + [12] * 9 + [19] * 8),
}
MAKERS: dict[str, Callable[..., IFormer]] = {"s": networks.iformer_s, "b": networks.iformer_b, "l": networks.iformer_l}
TINY: dict[str, Any] = {
    "depths": [1, 2],
    "dims": [32, 48],
    "heads": [1, [2, 4]],
    "pools": [2, 1],
    "layer_scale": [None, 1e-6],
    "classes": 5,
    "in_channels": 1,
    "input_size": 16,
    "patch": 2,
    "head_dim": 8,
}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def on_meta(make: Callable[[], IFormer], size: int = 224) -> tuple[IFormer, float]:
    """A network without memory, and its convolutions' and matrix products' mult-adds for one image, in 1e9."""
    with torch.device("meta"):
        network = make().eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, size, size))
    return network, counter.get_total_flops() / 2e9


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny(seed: int = 0, **options: Any) -> IFormer:
    torch.manual_seed(seed)
    return IFormer(**{**TINY, **options})


@pytest.mark.parametrize(
    ("size", "side", "count", "mult_adds"),
    [
        ("s", 224, 19_866_344, 4.848),
        ("s", 384, 20_899_944, 16.098),
        ("b", 224, 47_866_216, 9.378),
        ("b", 384, 48_936_296, 30.5),
        ("l", 224, 86_637_096, 14.047),
        ("l", 384, 87_743_656, 45.3),
    ],
)
def test_published_sizes(size: str, side: int, count: int, mult_adds: float) -> None:
    """The published counts hold 5 operations for each number that a layer norm sees, and 1 for each that a batch norm,
    the average pooling (its input) or an upsampling (its output) sees. At 384 the counted network interpolated its
    position embeddings."""
    network, counted = on_meta(partial(MAKERS[size], input_size=side), side)
    assert parameters(network) == count
    depths, dims, heads = SIZES[size]
    beside, block = dims[0] // 2 * (side // 2) ** 2, 0  # the stem's first batch norm
    for stage, (depth, dim) in enumerate(zip(depths, dims, strict=True)):
        tokens = (side // 4 >> stage) ** 2
        beside += dim * tokens + 2 * depth * 5 * dim * tokens
        pooled = sum(heads[block : block + depth]) * 32 * tokens if stage < 2 else 0
        beside += 2 * pooled
        block += depth
    beside += 5 * dims[-1] * (side // 32) ** 2
    if side != 224:
        beside += sum(stage.position.numel() for stage in network.stages)  # type: ignore[operator, union-attr, misc]
    digits = 1 if mult_adds * 10 % 1 == 0 else 3  # as published
    assert counted + beside / 1e9 == pytest.approx(mult_adds, abs=0.6 * 10**-digits)


def test_parts_by_hand() -> None:
    network, _ = on_meta(networks.iformer_s)
    first, last = network.stages[0].blocks[0], network.stages[3].blocks[2]  # type: ignore[index, union-attr]
    assert first.mixer.widths == [32, 32, 32]
    parts = {name: parameters(branch) for name, branch in first.mixer.branches.items()}
    assert parts == {"conv": 2048 + 576, "pool": 2112, "attention": 3168}
    assert (parameters(first.mixer.depthwise), parameters(first.mixer.project)) == (1440, 15_456)
    assert (parameters(first.mixer), parameters(first), parameters(last.mixer)) == (24_800, 99_392, 537_984)
    assert parameters(network.stages[0].embed) == 43_200  # type: ignore[arg-type, union-attr]
    assert sum(stage.position.numel() for stage in network.stages) == 533_120  # type: ignore[operator, union-attr]
    shares = [low.widths[-1] / sum(low.widths) for _, _, low in network.mixers()]
    assert shares == pytest.approx([1 / 3] * 3 + [1 / 2] * 3 + [7 / 10] * 4 + [9 / 10] * 5 + [11 / 12] * 3)


@pytest.mark.parametrize(
    ("options", "millions", "mult_adds"),
    [
        ({"heads": [3, 6, 10, 12]}, 21, 5.2),
        ({"high": ["pool"]}, 20, 4.9),
        ({"heads": [2, 4, [5] * 5 + [3] * 4, 4]}, 19, 4.7),
        ({"heads": [[2, 1, 2], 3, 5, 6]}, 19, 4.7),
    ],
)
def test_arms_have_the_papers_cost(
    options: dict[str, Any], millions: int, mult_adds: float, make_plan: Callable[..., Plan]
) -> None:
    """Table 5's 'attention only', '+ max-pool', reversed and equal split; norms and pooling add 0.022 G in all."""
    network, counted = on_meta(partial(networks.iformer_s, **options))
    assert round(parameters(network) / 1e6) == millions
    assert round(counted + 0.022, 1) == mult_adds
    stages = make_plan("paper=iformer", "scale=full").stages
    names = ("attention", "pool", "reversed", "constant")
    used = [{k: v for k, v in stages[n].module["network"].items() if k in options} for n in names]
    assert options in used


def test_shapes_at_224() -> None:
    network, _ = on_meta(networks.iformer_s)
    x, sides = torch.zeros(1, 3, 224, 224, device="meta"), []
    with branch_outputs(network) as outputs:
        for stage in network.stages:
            x = stage(x)
            sides.append(tuple(x.shape[1:]))
    assert sides == [(96, 56, 56), (192, 28, 28), (320, 14, 14), (384, 7, 7)]
    assert outputs[1, 1, "attention"].shape == (1, 56, 56, 32)
    assert outputs[1, 1, "conv"].shape == outputs[1, 1, "pool"].shape == (1, 56, 56, 64)
    assert outputs[3, 9, "attention"].shape == (1, 14, 14, 288)


def test_attention_on_all_tokens_costs_more_in_stage_1() -> None:
    """784 tokens for every head of stage 1; what the fuse's wider input costs instead is less."""
    full = on_meta(networks.iformer_s)[1]
    more = on_meta(partial(networks.iformer_s, heads=(2, 3, (7,) * 4 + (9,) * 5, 11)))[1]
    unpooled = on_meta(lambda: IFormer(**{**SMALL, "pools": (1, 2, 1, 1)}))[1]
    assert more > full
    assert more - full == pytest.approx(3 * head_cost() / 1e9, rel=1e-6)
    assert unpooled > full


def test_attention_sees_784_tokens_in_stage_1_and_196_in_stage_3() -> None:
    network, _ = on_meta(networks.iformer_s)
    tokens: dict[int, int] = {}
    for stage, _, mixer in network.mixers():

        def count(_: nn.Module, __: Any, y: Tensor, stage: int = stage) -> None:
            tokens[stage] = y.shape[1] * y.shape[2]

        mixer.branches["attention"].qkv.register_forward_hook(count)  # type: ignore[union-attr, operator]
    network(torch.zeros(1, 3, 224, 224, device="meta"))
    assert tokens == {1: 784, 2: 196, 3: 196, 4: 49}


SMALL: dict[str, Any] = {
    "depths": (3, 3, 9, 3),
    "dims": (96, 192, 320, 384),
    "heads": networks.RAMP_S,
    "layer_scale": (None, None, 1e-6, 1e-6),
    "classes": 1000,
}


def head_cost() -> int:
    """One head more and 32 high channels less in a block of stage 1 of S: mult-adds, by hand."""
    tokens, cells = 56 * 56, 28 * 28

    def block(low: int) -> int:
        high = 96 - low
        mixers = 2 * (high // 2) * high + 9 * high  # two 1x1 and one depthwise
        fused = low + 2 * high
        attention = cells * low * 3 * low + 2 * cells * cells * low
        return tokens * (mixers + 9 * fused + fused * 96) + attention

    return block(64) - block(32)


# A second implementation, from the equations: (B, C, H, W) throughout, sums over shifts, a loop over heads. It reads
# weights under the names and shapes in which they were released.


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y = torch.einsum("oc,bchw->bohw", weight.flatten(1), x)
    return y if bias is None else y + bias[:, None, None]


def shifts(x: Tensor, value: float) -> list[Tensor]:
    """The nine neighbours of every pixel, row by row."""
    height, width = x.shape[2:]
    padded = F.pad(x, [1] * 4, value=value)
    return [padded[:, :, dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]


def depthwise(x: Tensor, weight: Tensor) -> Tensor:
    taps = weight.flatten(1).unbind(1)  # nine of (C,)
    return torch.stack([t[:, None, None] * s for t, s in zip(taps, shifts(x, 0.0), strict=True)]).sum(0)


def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(1, keepdim=True)
    y = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
    return y * weight[:, None, None] + bias[:, None, None]


def naive_mixer(x: Tensor, p: Callable[[str], Tensor], heads: int, pool: int) -> Tensor:
    low = 32 * heads
    half = (x.shape[1] - low) // 2
    first, second, rest = x[:, :half], x[:, half : 2 * half], x[:, 2 * half :]
    conv = gelu(depthwise(pointwise(first, p("high_mixer.conv1.weight")), p("high_mixer.proj1.weight")))
    largest = torch.stack(shifts(second, -math.inf)).amax(0)
    most = gelu(pointwise(largest, p("high_mixer.proj2.weight"), p("high_mixer.proj2.bias")))
    b, _, height, width = rest.shape
    h, w = height // pool, width // pool
    cells = rest.reshape(b, low, h, pool, w, pool).mean((3, 5))
    qkv = pointwise(cells, p("low_mixer.qkv.weight"), p("low_mixer.qkv.bias")).flatten(2)  # (B, 3 C_l, N)
    parts = []
    for head in range(heads):
        q, k, v = (qkv[:, i * low + 32 * head : i * low + 32 * (head + 1)] for i in range(3))  # (B, 32, N)
        attention = (torch.einsum("bdn,bdm->bnm", q, k) / math.sqrt(32)).softmax(-1)
        parts.append(torch.einsum("bnm,bdm->bdn", attention, v))
    attended = torch.cat(parts, 1).reshape(b, low, h, w)
    attended = attended.repeat_interleave(pool, 2).repeat_interleave(pool, 3)
    y = torch.cat([conv, most, attended], 1)
    return pointwise(y + depthwise(y, p("conv_fuse.weight")), p("proj.weight"), p("proj.bias"))


def naive(x: Tensor, state: dict[str, Tensor], depths: Sequence[int], heads: Sequence[int]) -> Tensor:
    def embed(x: Tensor, where: str, number: str = "") -> Tensor:
        p = [state[f"{where}.norm{number}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")]
        x = F.conv2d(x, state[f"{where}.proj{number}.weight"], state[f"{where}.proj{number}.bias"], 2, 1)
        mean, var, weight, bias = (v[:, None, None] for v in p)
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    number = 0
    for stage, depth in enumerate(depths, 1):
        x = embed(embed_first(x, embed), "patch_embed", "2") if stage == 1 else embed(x, f"patch_embed{stage}")
        x = x + state[f"pos_embed{stage}"].permute(0, 3, 1, 2)
        for index in range(depth):
            where = f"blocks{stage}.{index}"

            def p(name: str, where: str = where) -> Tensor:
                return state[f"{where}.{name}"]

            y = norm(x, p("norm1.weight"), p("norm1.bias"))
            pool = 2 if stage < 3 else 1
            y = naive_mixer(y, lambda name, where=where: state[f"{where}.attn.{name}"], heads[number], pool)  # type: ignore[misc]
            x = x + (p("layer_scale_1")[:, None, None] * y if stage > 2 else y)
            y = norm(x, p("norm2.weight"), p("norm2.bias"))
            y = gelu(pointwise(y, p("mlp.fc1.weight"), p("mlp.fc1.bias")))
            y = pointwise(y, p("mlp.fc2.weight"), p("mlp.fc2.bias"))
            x = x + (p("layer_scale_2")[:, None, None] * y if stage > 2 else y)
            number += 1
    tokens = norm(x, state["norm.weight"], state["norm.bias"]).mean((2, 3))
    return tokens @ state["head.weight"].T + state["head.bias"]


def embed_first(x: Tensor, embed: Callable[[Tensor, str, str], Tensor]) -> Tensor:
    return gelu(embed(x, "patch_embed", "1"))


def released(depths: Sequence[int], dims: Sequence[int], heads: Sequence[int], side: int = 224) -> dict[str, Tensor]:
    """Random weights of a released file: its names and shapes, written from the architecture's table."""
    source, state, number = torch.Generator().manual_seed(1), {}, 0

    def put(name: str, *shape: int, bias: bool = True) -> None:
        fan_in = math.prod(shape[1:])
        state[f"{name}.weight"] = torch.randn(shape, generator=source) / math.sqrt(fan_in)
        if bias:
            state[f"{name}.bias"] = 0.2 * torch.randn(shape[0], generator=source)

    def put_norm(name: str, c: int, batch: bool = False) -> None:
        state[f"{name}.weight"] = 1 + 0.3 * torch.randn(c, generator=source)
        state[f"{name}.bias"] = 0.3 * torch.randn(c, generator=source)
        if batch:
            state[f"{name}.running_mean"] = 0.3 * torch.randn(c, generator=source)
            state[f"{name}.running_var"] = 0.5 + torch.rand(c, generator=source)
            state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    put("patch_embed.proj1", dims[0] // 2, 3, 3, 3)
    put_norm("patch_embed.norm1", dims[0] // 2, batch=True)
    put("patch_embed.proj2", dims[0], dims[0] // 2, 3, 3)
    put_norm("patch_embed.norm2", dims[0], batch=True)
    for stage, (depth, c) in enumerate(zip(depths, dims, strict=True), 1):
        if stage > 1:
            put(f"patch_embed{stage}.proj", c, dims[stage - 2], 3, 3)
            put_norm(f"patch_embed{stage}.norm", c, batch=True)
        tokens = side // 2 ** (stage + 1)
        state[f"pos_embed{stage}"] = 0.3 * torch.randn(1, tokens, tokens, c, generator=source)
        for index in range(depth):
            where, low = f"blocks{stage}.{index}", 32 * heads[number]
            high = c - low
            put_norm(f"{where}.norm1", c)
            put(f"{where}.attn.high_mixer.conv1", high, high // 2, 1, 1, bias=False)
            put(f"{where}.attn.high_mixer.proj1", high, 1, 3, 3, bias=False)
            put(f"{where}.attn.high_mixer.proj2", high, high // 2, 1, 1)
            put(f"{where}.attn.low_mixer.qkv", 3 * low, low)
            put(f"{where}.attn.conv_fuse", low + 2 * high, 1, 3, 3, bias=False)
            put(f"{where}.attn.proj", c, low + 2 * high, 1, 1)
            put_norm(f"{where}.norm2", c)
            put(f"{where}.mlp.fc1", 4 * c, c)
            put(f"{where}.mlp.fc2", c, 4 * c)
            if stage > 2:
                for name in ("layer_scale_1", "layer_scale_2"):
                    state[f"{where}.{name}"] = 0.5 + torch.rand(c, generator=source)
            number += 1
    put_norm("norm", dims[-1])
    put("head", 1000, dims[-1])
    return state


@pytest.mark.parametrize(
    "size", ["s", pytest.param("b", marks=pytest.mark.slow), pytest.param("l", marks=pytest.mark.slow)]
)
def test_released_weights_give_what_the_equations_give(size: str) -> None:
    depths, dims, heads = SIZES[size]
    state = released(depths, dims, heads)
    network = MAKERS[size]().eval()
    network.load_state_dict(networks.from_released(state))
    x = random(1, 3, 224, 224)
    with torch.inference_mode():
        ours, theirs = network(x), naive(x, state, depths, heads)
    assert float(theirs.std()) > 0.3
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert sum(v.numel() for n, v in state.items() if "running" not in n and "tracked" not in n) == parameters(network)


def test_released_weights_at_another_size_are_interpolated() -> None:
    depths, dims, heads = SIZES["s"]
    state = networks.from_released(released(depths, dims, heads))
    large = networks.iformer_s(input_size=256)
    large.load_resized(state)
    expected = F.interpolate(state["stages.2.position"], (16, 16), mode="bilinear", align_corners=False)
    assert torch.equal(large.stages[2].position, expected)  # type: ignore[union-attr, arg-type]
    small = networks.iformer_s()
    small.load_state_dict(state)
    x = random(1, 3, 256, 256)
    with torch.inference_mode():
        assert torch.allclose(small.eval()(x), large.eval()(x), atol=1e-4)


def test_without_the_fusing_convolution_only_the_projection_is_left() -> None:
    mixer = InceptionMixer(96, 1, pool=2)
    nn.init.zeros_(mixer.depthwise.weight)
    x = random(2, 8, 8, 96)
    fused = torch.cat([b(part) for b, part in zip(mixer.branches.values(), x.split(mixer.widths, -1), strict=True)], -1)
    assert fused.shape[-1] == 32 + 2 * 64
    assert torch.allclose(mixer(x), fused @ mixer.project.weight.T + mixer.project.bias, atol=1e-5)


def test_without_the_projection_a_block_is_its_ffn() -> None:
    block = tiny().stages[0].blocks[0]  # type: ignore[index, union-attr]
    nn.init.zeros_(block.mixer.project.weight)
    nn.init.zeros_(block.mixer.project.bias)
    x = random(2, 8, 8, 32)
    assert torch.allclose(block(x), x + block.ffn(block.norm2(x)), atol=1e-6)


def test_without_queries_and_keys_every_token_gets_the_mean_value() -> None:
    branch = AttentionBranch(2, 32, pool=2)
    nn.init.zeros_(branch.qkv.weight[:128])
    nn.init.zeros_(branch.qkv.bias[:128])
    x = random(2, 8, 8, 64)
    value = branch.qkv(x.view(2, 4, 2, 4, 2, 64).mean((2, 4)))[..., 128:].mean((1, 2), keepdim=True)
    assert torch.allclose(branch(x), value.expand(2, 8, 8, 64), atol=1e-6)


def test_pooled_attention_is_constant_on_its_cells() -> None:
    torch.manual_seed(0)
    y = AttentionBranch(1, 32, pool=2)(random(1, 8, 8, 32))
    cells = y.view(1, 4, 2, 4, 2, 32)
    assert torch.equal(cells, cells[:, :, :1, :, :1].expand_as(cells))
    assert float((cells[:, 0, 0] - cells[:, 1, 0]).detach().abs().min()) > 0


@pytest.mark.parametrize("side", [7, 5])
def test_odd_sides_keep_every_pixel_and_the_mean_of_each_cell(side: int) -> None:
    torch.manual_seed(0)
    branch = AttentionBranch(1, 8, pool=2)
    x = random(1, side, side, 8)
    y = branch(x)
    assert y.shape == x.shape
    filled = torch.cat([torch.cat([x, x[:, -1:]], 1), torch.cat([x, x[:, -1:]], 1)[:, :, -1:]], 2)  # edge repeated
    assert torch.allclose(branch(filled)[:, :side, :side], y, atol=1e-6)


def test_high_mixers_are_local_and_attention_is_not() -> None:
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


def test_branches_on_simple_images() -> None:
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


def test_blocks_with_layer_scale_start_as_identities() -> None:
    torch.manual_seed(0)
    network = networks.iformer_s().eval()
    with torch.inference_mode():
        for number, stage in enumerate(network.stages, 1):
            block = stage.blocks[0]  # type: ignore[index, union-attr]
            x = random(1, 14, 14, block.norm1.normalized_shape[0])
            change = float((block(x) - x).norm() / x.norm())
            assert (change < 1e-4) == (number > 2), f"stage {number}: {change}"
    scales = [p for n, p in network.named_parameters() if "scale" in n]
    assert len(scales) == 2 * 12
    assert all(bool((p == 1e-6).all()) for p in scales)


def test_scaling_weights_is_layer_scale() -> None:
    torch.manual_seed(0)
    linear, scale = nn.Linear(6, 4), nn.Parameter(random(4))
    x = random(3, 6)
    ours, plain = networks.scaled_linear(x, linear, scale), scale * linear(x)
    assert torch.allclose(ours, plain, atol=1e-6)
    wanted = [scale, *linear.parameters()]
    pairs = zip(
        torch.autograd.grad(ours.sin().sum(), wanted), torch.autograd.grad(plain.sin().sum(), wanted), strict=True
    )
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def rms(x: Tensor) -> float:
    return float(x.detach().float().square().mean().sqrt())


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_the_fusing_convolution_keeps_small_weights_in_half_precision(kind: torch.dtype) -> None:
    """w = 0.02 beside 1 would be rounded to multiples of 2^-8: the filter itself must be what is rounded."""
    torch.manual_seed(0)
    mixer = InceptionMixer(32, 4, head_dim=8)  # attention alone
    nn.init.trunc_normal_(mixer.depthwise.weight, std=0.02)
    seen: list[Tensor] = []
    mixer.depthwise.register_forward_hook(lambda m, i, o: seen.extend((i[0], o)))
    x = random(2, 8, 8, 32)
    with torch.inference_mode(), torch.autocast("cpu", kind):
        mixer(x)
    given, got = seen
    exact = F.conv2d(given.float(), mixer.depthwise.weight, padding=1, groups=32)
    assert got.dtype == kind
    assert rms(got.float() - exact) < 0.01 * rms(exact)
    rounded = (mixer.depthwise.weight + mixer.identity).to(torch.bfloat16).float() - mixer.identity
    assert rms((rounded - mixer.depthwise.weight)[:, :, 1, 1]) > 0.03 * rms(mixer.depthwise.weight[:, :, 1, 1])


def test_in_full_precision_the_identity_is_folded_into_the_fusing_convolution() -> None:
    torch.manual_seed(0)
    mixer = InceptionMixer(32, 4, head_dim=8)
    called: list[int] = []
    mixer.depthwise.register_forward_hook(lambda m, i, o: called.append(1))
    y = mixer.branches["attention"](random(2, 8, 8, 32)).permute(0, 3, 1, 2)
    expected = mixer.project((y + F.conv2d(y, mixer.depthwise.weight, padding=1, groups=32)).permute(0, 2, 3, 1))
    assert torch.allclose(mixer(random(2, 8, 8, 32)), expected, atol=1e-6)
    assert not called


def test_layer_scale_does_not_underflow_in_float16() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 64)
    nn.init.trunc_normal_(linear.weight, std=0.02)
    scale, x = torch.full((64,), 1e-6), random(8, 64)
    expected = scale * linear(x)
    assert not bool((linear.weight * 1e-6).half().float().abs().max() > 1e-7)  # what the weights would become
    for kind in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", kind):
            got = networks.scaled_linear(x, linear, scale)
        assert rms(got.float() - expected) < 0.01 * rms(expected)


def test_initial_weights_by_fan_in() -> None:
    torch.manual_seed(0)
    network = IFormer(**{**TINY, "dims": [64, 96], "initial_std": None})
    block = network.stages[1].blocks[1]  # type: ignore[index, union-attr]
    for layer, fan_in in ((block.mixer.project, 160), (block.ffn.project, 384), (network.stages[1].embed[0], 576)):  # type: ignore[index, union-attr]
        assert layer.weight.shape[1:].numel() == fan_in
        assert float(layer.weight.detach().std()) == pytest.approx(fan_in**-0.5, rel=0.05)
    assert float(block.mixer.depthwise.weight.detach().std()) == pytest.approx(1 / 3, rel=0.1)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    network = networks.iformer_s()
    for name, p in network.named_parameters():
        if p.ndim > 1 and p.numel() > 5000:
            assert float(p.detach().std()) == pytest.approx(0.02, rel=0.05), name
        elif p.ndim == 1 and "scale" not in name:
            assert float(p.detach().min()) == float(p.detach().max()) == (1.0 if is_norm(name) else 0.0), name
    assert float(network.head.weight.detach().std()) > 0  # not the zeros of timm's vision transformers


def is_norm(name: str) -> bool:
    return name.endswith("weight")  # the only vectors called weight are those of norms


def test_every_parameter_gets_a_gradient() -> None:
    network = tiny()
    F.cross_entropy(network(random(4, 1, 16, 16)), torch.arange(4)).backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]


def test_autocast_keeps_the_residual_stream_in_full_precision() -> None:
    network = tiny()
    seen: list[torch.dtype] = []
    network.stages[1].blocks[1].register_forward_hook(lambda m, i, o: seen.append(o.dtype))  # type: ignore[index, union-attr, func-returns-value]
    x = random(4, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(network(x), torch.arange(4))
    loss.backward()
    assert seen == [torch.float32]
    assert float(loss.detach()) == pytest.approx(float(F.cross_entropy(network(x), torch.arange(4)).detach()), abs=0.02)


def test_drop_path_grows_with_depth_and_keeps_the_expectation() -> None:
    network, _ = on_meta(partial(networks.iformer_s, drop_path=0.2))
    rates = [block.drop_path.p for stage in network.stages for block in stage.blocks]  # type: ignore[union-attr, operator]
    assert rates == pytest.approx([0.2 * i / 17 for i in range(18)])
    block = tiny(drop_path=0.5).stages[1].blocks[1].train()  # type: ignore[index, union-attr]
    nn.init.ones_(block.scale1)
    x = random(1, 4, 4, 48).expand(400, 4, 4, 48)
    with torch.no_grad():
        nn.init.zeros_(block.scale2)
        change = block(x) - x
        kept = change.flatten(1).norm(dim=1) > 0
        assert 150 < int(kept.sum()) < 250
        whole = block.eval()(x[:1]) - x[:1]
        assert torch.allclose(change[kept][0], 2 * whole[0], atol=1e-4)


def test_spectra_by_hand_and_by_numpy() -> None:
    ones, board = torch.ones(1, 8, 8, 1), torch.ones(1, 8, 8, 1)
    board[:, 1::2, ::2] = board[:, ::2, 1::2] = -1
    point = torch.zeros(1, 8, 8, 1)
    point[0, 3, 3] = 1
    bottom = math.log(FLOOR)
    assert float(high_frequency(radial(ones))) == pytest.approx(bottom - math.log(64), abs=1e-3)
    assert float(high_frequency(radial(board))) == pytest.approx(math.log(64) - bottom, abs=1e-3)
    assert float(high_frequency(radial(point))) == pytest.approx(0.0, abs=1e-5)
    assert float(high_frequency(radial(board + 5), 1)) == pytest.approx(math.log(64) - bottom, abs=1e-3)
    x = random(2, 7, 7, 3)
    log = np.log(np.abs(np.fft.fft2(x.numpy().astype(np.float64), axes=(1, 2)))).mean(-1)
    f = np.fft.fftfreq(7) * 7
    radius = np.round(np.hypot(f[:, None], f[None])).astype(int)
    expected = [[log[i][radius == r].mean() for r in range(radius.max() + 1)] for i in range(2)]
    assert np.allclose(radial(x).numpy(), expected, atol=1e-4)


def test_smoothing_a_map_lowers_its_high_frequencies() -> None:
    x = random(4, 14, 14, 6)
    smooth = F.avg_pool2d(F.pad(x.permute(0, 3, 1, 2), [1] * 4, mode="circular"), 3, 1).permute(0, 2, 3, 1)
    before, after = radial(x), radial(smooth)
    for base in (0, 1):
        assert bool((high_frequency(after, base) < high_frequency(before, base) - 0.5).all())
    assert torch.allclose(high_frequency(radial(5 * x)), high_frequency(before), atol=1e-4)  # size does not count


def test_cells_are_averaged_and_the_last_may_be_smaller() -> None:
    x = torch.arange(9.0).view(1, 3, 3, 1)
    assert averaged(x, 2).flatten().tolist() == [2.0, 3.5, 6.5, 8.0]
    assert averaged(x, 1) is x


def labelled(images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Batches of at most four images."""
    return [(batch, torch.zeros(len(batch), dtype=torch.long)) for batch in images.split(4)]


def test_reported_spectra_are_means_over_images_and_blocks_on_attentions_cells(
    logged: Callable[..., dict[str, float]],
) -> None:
    module = IFormerClassifier(tiny(input_size=32), 5).eval()
    images = random(10, 1, 32, 32)
    found = logged(module, *labelled(images))
    with torch.inference_mode(), branch_outputs(module.iformer) as outputs:
        module(images)
    assert not any(b._forward_hooks for _, _, m in module.iformer.mixers() for b in m.branches.values())
    assert {key: y.shape[1] for key, y in outputs.items() if key[2] == "conv"} == {
        (1, 1, "conv"): 16,
        (2, 1, "conv"): 8,
        (2, 2, "conv"): 8,
    }
    for name in ("conv", "pool", "attention"):
        maps = [averaged(outputs[1, 1, name], 2), outputs[2, 1, name], outputs[2, 2, name]]
        for suffix, base in (("", 0), ("_from_1", 1)):
            expected = torch.stack([high_frequency(radial(y), base) for y in maps]).mean()
            assert found[f"test/{name}_high{suffix}"] == pytest.approx(float(expected), abs=1e-4)
    assert found["test/n"] == 10


def test_maps_under_7_pixels_have_no_spectrum(logged: Callable[..., dict[str, float]]) -> None:
    found = logged(IFormerClassifier(tiny(input_size=26), 5).eval(), *labelled(random(4, 1, 26, 26)))
    assert found["test/conv_high"] != 0  # stage 1: 13 pixels, 7 cells
    assert not [
        name for name in logged(IFormerClassifier(tiny(), 5).eval(), *labelled(random(4, 1, 16, 16))) if "high" in name
    ]


def test_untrained_spectra_stay_those_of_the_first_weights(logged: Callable[..., dict[str, float]]) -> None:
    module, same = (IFormerClassifier(tiny(3, input_size=32), 5).eval() for _ in range(2))
    images = random(8, 1, 32, 32)
    before = logged(same, *labelled(images))
    with torch.no_grad():
        for p in module.network.parameters():
            p.add_(0.1 * random(*p.shape))
    after = logged(module, *labelled(images))
    for name in ("conv", "pool", "attention"):
        for suffix in ("", "_from_1"):
            assert after[f"test/{name}_high{suffix}_initial"] == before[f"test/{name}_high{suffix}_initial"]
            assert abs(after[f"test/{name}_high{suffix}"] - before[f"test/{name}_high{suffix}"]) > 1e-3
    tuned = logged(IFormerClassifier(tiny(4, input_size=32), 5, start=module).eval(), *labelled(images))
    assert not [name for name in tuned if name.endswith("_initial")]
    assert not [name for name in module.state_dict() if "initial" in name]
    assert sum(p.numel() for p in module.parameters()) == parameters(module.network)


def test_decay_reaches_positions_but_no_vector() -> None:
    module = IFormerClassifier(tiny(), 5)
    decayed, plain = module.trained()
    assert "weight_decay" not in decayed
    assert plain["weight_decay"] == 0.0
    names = {id(p): n for n, p in module.named_parameters()}
    assert sum("position" in names[id(p)] for p in decayed["params"]) == 2
    assert all(p.ndim == 1 for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(names)


def test_mixed_batches_have_timms_smoothed_targets() -> None:
    module = IFormerClassifier(tiny(), 5, label_smoothing=0.1, mixup=0.8, cutmix=1.0)
    x, y = random(4, 1, 16, 16), torch.arange(4)
    torch.manual_seed(3)
    loss = module.training_step((x, y), 0)
    torch.manual_seed(3)
    mixed, target = module.mixed(x, y)  # two classes a row: its own with the share lambda, and its neighbour's
    on, off = 1 - 0.1 + 0.1 / 5, 0.1 / 5
    smooth = target * on + (1 - target) * off
    expected = -(smooth * module(mixed).log_softmax(-1)).sum(-1).mean()
    assert bool(((target > 0).sum(1) == 2).all())
    assert torch.allclose(target.sum(1), torch.ones(4))
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-5)


def test_mixup_and_cutmix_take_turns() -> None:
    module = IFormerClassifier(tiny(), 5, mixup=0.8, cutmix=1.0)
    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 16, 16)
    torch.manual_seed(0)
    pasted = 0
    for _ in range(200):
        mixed, _ = module.mixed(x, torch.arange(4))
        pasted += set(mixed.unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    assert 75 < pasted < 125


def test_copies_of_an_image_are_rarely_mixed_with_each_other() -> None:
    """Three copies side by side, as repeated augmentation serves them: a pair is one image with 2 in 47, not 2 in 3."""
    module = IFormerClassifier(tiny(), 16, mixup=0.8)
    y = torch.arange(16).repeat_interleave(3)
    x = random(48, 1, 4, 4)
    torch.manual_seed(0)
    alone = torch.cat([(module.mixed(x, y)[1] > 0).sum(1) == 1 for _ in range(40)])
    assert float(alone.float().mean()) < 0.1


def test_without_mixing_the_loss_is_plain_smoothed_cross_entropy() -> None:
    module = IFormerClassifier(tiny(), 5, label_smoothing=0.1).eval()
    x, y = random(6, 1, 16, 16), torch.arange(6) % 5
    assert torch.allclose(module.training_step((x, y), 0), F.cross_entropy(module(x), y, label_smoothing=0.1))


def test_fine_tuning_starts_where_training_ended() -> None:
    start = IFormerClassifier(tiny(3), 5).eval()
    x = random(2, 1, 16, 16)
    same = IFormerClassifier(tiny(4), 5, start=start).eval()
    larger = IFormerClassifier(tiny(4, input_size=24), 5, start=start).eval()
    assert torch.allclose(same(x), start(x), atol=1e-6)
    x = random(2, 1, 24, 24)
    assert torch.allclose(larger(x), start(x), atol=1e-5)  # the network itself interpolates in the same way
    assert [s.position.shape[-1] for s in larger.iformer.stages] == [12, 6]  # type: ignore[union-attr, index]
    start.network.norm.weight.data.zero_()  # type: ignore[union-attr, operator]
    assert float(larger.network.norm.weight.detach().min()) == 1.0  # type: ignore[union-attr, operator] # a copy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": [5, 2]}, "heads=5: expected 0 to 4 of size 8, C = 32"),
        ({"heads": [1, [2]]}, "heads of stage 2 has 1 entries for 2 blocks"),
        ({"dims": [32]}, "dims has 1 entries for 2 stages"),
        ({"high": ["conv", "wave"]}, "high='wave': expected some of conv, pool"),
        ({"high": []}, "24 channels cannot be shared by 0 high mixers"),
        ({"patch": 3}, "patch=3: expected 2, 4"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_high_mixers_alone_and_attention_alone() -> None:
    for heads, names in (([0, 0], {"conv", "pool"}), ([4, 6], {"attention"})):
        network = tiny(heads=heads)
        assert {name for _, _, m in network.mixers() for name in m.branches} == names
        assert network(random(2, 1, 16, 16)).shape == (2, 5)
    fuse = tiny(heads=[4, 6]).stages[0].blocks[0].mixer.depthwise  # type: ignore[index, union-attr]
    assert fuse.weight.shape == (32, 1, 3, 3)  # the baseline keeps the fusing convolution


@pytest.mark.parametrize(
    ("lines", "stage", "epochs", "warmup", "lowest"),
    [
        ([], "ramp", 300, 5, 1e-6),
        (["variant=large"], "ramp", 300, 5, 1e-5),
        (["variant=base"], "ramp", 300, 5, 1e-5),
        (["variant=ablation"], "reversed", 100, 5, 1e-6),
        ([], "finetuned", 20, 0, 1e-6),
        (["variant=base"], "finetuned", 20, 0, 5e-7),
        (["variant=large"], "finetuned", 20, 0, 1e-6),
    ],
)
def test_learning_rates_are_timms(
    lines: list[str], stage: str, epochs: int, warmup: int, lowest: float, make_plan: Callable[..., Plan]
) -> None:
    given = make_plan("paper=iformer", "scale=full", *lines).stages[stage]
    schedule, rate = training.build(given.module["schedule"]), given.module["optimizer"]["lr"]
    ours = [rate * schedule(Position(e, 100, 1251, epochs + 10)) for e in range(epochs + 10)]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    theirs = CosineLRScheduler(optimizer, epochs, lr_min=lowest, warmup_t=warmup, warmup_lr_init=1e-6)
    expected = []
    for epoch in range(epochs + 10):
        expected.append(optimizer.param_groups[0]["lr"])
        theirs.step(epoch + 1)
    assert ours == pytest.approx(expected)
    assert given.trainer["max_epochs"] == epochs + 10


@pytest.mark.parametrize(
    ("variant", "size", "drop_path", "clip", "repeats", "tuned_drop_path", "tuned_rate"),
    [
        (None, "s", 0.2, None, 1, 0.3, 1e-5),
        ("base", "b", 0.4, 1.0, 3, 0.5, 5e-6),
        ("large", "l", 0.5, 1.0, 3, 0.6, 1e-5),
    ],
)
def test_full_recipe(
    variant: str | None,
    size: str,
    drop_path: float,
    clip: float | None,
    repeats: int,
    tuned_drop_path: float,
    tuned_rate: float,
    make_plan: Callable[..., Plan],
) -> None:
    stages = make_plan("paper=iformer", "scale=full", *([f"variant={variant}"] if variant else [])).stages
    ramp, tuned = stages["ramp"], stages["finetuned"]
    assert {s.module["network"]["_target_"] for s in stages.values()} == {f"modules.iformer.networks.iformer_{size}"}
    assert ramp.module["network"]["drop_path"] == drop_path
    assert (ramp.trainer["gradient_clip_val"], ramp.data["repeats"]) == (clip, repeats)
    assert (ramp.reference_batch, ramp.data["batch_size"]) == (1024, 1024)
    assert (ramp.data["crop_pct"], ramp.data["image_size"]) == (0.9, 224)
    assert ramp.data["auto_augment"] == "rand-m9-mstd0.5-inc1"
    assert (ramp.data["erasing"], ramp.module["label_smoothing"]) == (0.25, 0.1)
    assert (ramp.module["mixup"], ramp.module["cutmix"]) == (0.8, 1.0)
    assert (ramp.module["optimizer"]["lr"], ramp.module["optimizer"]["weight_decay"]) == (1e-3, 0.05)
    assert (tuned.module["network"]["drop_path"], tuned.module["optimizer"]["lr"]) == (tuned_drop_path, tuned_rate)
    assert (tuned.trainer["gradient_clip_val"], tuned.data["repeats"]) == (1.0, repeats)
    assert (tuned.module["mixup"], tuned.module["cutmix"]) == (0.1, 0.1)
    assert (tuned.reference_batch, tuned.data["image_size"], tuned.data["crop_pct"]) == (512, 384, 1.0)
    assert tuned.module["optimizer"]["weight_decay"] == 1e-8
    arms = {"attention", "pool", "constant", "reversed"}
    assert set(stages) == {"ramp", "untuned", "finetuned"} | (set() if variant else arms)
    untuned = stages["untuned"]
    assert not untuned.fit
    assert untuned.data == tuned.data | {"repeats": 1}
    assert untuned.module["network"]["input_size"] == tuned.module["network"]["input_size"] == 384
    for name in arms & set(stages):
        arm = stages[name]
        assert (arm.data, arm.trainer, arm.reference_batch) == (ramp.data, ramp.trainer, ramp.reference_batch)
        assert {k: v for k, v in arm.module.items() if k != "network"} == {
            k: v for k, v in ramp.module.items() if k != "network"
        }


def test_the_ablation_has_the_papers_arms_and_no_fine_tuning(make_plan: Callable[..., Plan]) -> None:
    planned = make_plan("paper=iformer", "scale=full", "variant=ablation")
    assert set(planned.stages) == {"ramp", "attention", "pool", "constant", "reversed"}
    assert {stage.trainer["max_epochs"] for stage in planned.stages.values()} == {110}
    compared = {claim.than for claim in claims.read(planned.config).claims}
    assert compared >= {f"{name}/test/top1" for name in set(planned.stages) - {"ramp"}}


@pytest.mark.parametrize("lines", [["scale=mini"], ["scale=mini", "variant=cifar10"]])
def test_arms_of_the_mini_differ_in_their_mixers_alone(lines: list[str], make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=iformer", *lines).stages
    ramp = stages["ramp"]
    networks = {name: training.build(stages[name].module["network"]) for name in stages if "tuned" not in name}
    count = parameters(networks["ramp"])
    assert all(abs(parameters(n) / count - 1) < 0.07 for n in networks.values())
    for name in networks:
        arm = stages[name]
        assert (arm.data, arm.trainer) == (ramp.data, ramp.trainer)
        given, own = ({**s.module, "network": dict(s.module["network"])} for s in (ramp, arm))
        for module in (given, own):
            module["network"].pop("heads")
        assert own == given
    shares = {
        name: [m.widths[-1] / sum(m.widths) if "attention" in m.branches else 0.0 for _, _, m in network.mixers()]
        for name, network in networks.items()
    }
    assert shares["ramp"] == sorted(shares["ramp"])
    assert shares["reversed"] == sorted(shares["reversed"], reverse=True)
    assert set(shares["constant"]) == {0.5}
    assert set(shares["attention"]) == {1.0}
    assert all(len(mixer.branches) == 3 for _, _, mixer in networks["ramp"].mixers())
    tuned = stages["finetuned"]
    assert tuned.data == stages["untuned"].data
    assert tuned.module["network"] == stages["untuned"].module["network"]
    assert tuned.data["source"] == ramp.data
    assert tuned.data["side"] == tuned.module["network"]["input_size"] > ramp.module["network"]["input_size"]
