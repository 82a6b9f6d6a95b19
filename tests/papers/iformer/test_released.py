"""Released weights in our networks give what a second implementation gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.iformer import networks
from modules.iformer.networks import IFormer
from modules.iformer.released import from_released

SIZES = {  # the sheet's table: depths, dims, attention heads of every block
    "s": ([3, 3, 9, 3], [96, 192, 320, 384], [1] * 3 + [3] * 3 + [7] * 4 + [9] * 5 + [11] * 3),
    "b": ([4, 6, 14, 6], [96, 192, 384, 512], [1] * 4 + [3] * 6 + [8] * 7 + [10] * 7 + [15] * 6),
    "l": ([4, 6, 18, 8], [96, 192, 448, 640], [1] * 4 + [3] * 6 + [10] * 9 + [12] * 9 + [19] * 8),
}


MAKERS: dict[str, Callable[..., IFormer]] = {"s": networks.iformer_s, "b": networks.iformer_b, "l": networks.iformer_l}


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
def test_released_weights_give_what_the_equations_give(
    parameters: Callable[..., int], random: Callable[..., Tensor], size: str
) -> None:
    depths, dims, heads = SIZES[size]
    state = released(depths, dims, heads)
    network = MAKERS[size]().eval()
    network.load_state_dict(from_released(state))
    x = random(1, 3, 224, 224)
    with torch.inference_mode():
        ours, theirs = network(x), naive(x, state, depths, heads)
    assert float(theirs.std()) > 0.3
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert sum(v.numel() for n, v in state.items() if "running" not in n and "tracked" not in n) == parameters(network)


def test_released_weights_at_another_size_are_interpolated(random: Callable[..., Tensor]) -> None:
    depths, dims, heads = SIZES["s"]
    state = from_released(released(depths, dims, heads))
    large = networks.iformer_s(input_size=256)
    large.load_resized(state)
    expected = F.interpolate(state["stages.2.position"], (16, 16), mode="bilinear", align_corners=False)
    assert torch.equal(large.stages[2].position, expected)  # type: ignore[union-attr, arg-type]
    small = networks.iformer_s()
    small.load_state_dict(state)
    x = random(1, 3, 256, 256)
    with torch.inference_mode():
        assert torch.allclose(small.eval()(x), large.eval()(x), atol=1e-4)
