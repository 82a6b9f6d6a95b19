"""Published sizes, shapes, initial weights, blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.iformer import networks
from modules.iformer.evaluation import branch_outputs
from modules.iformer.networks import IFormer, Layout

SIZES = {  # the sheet's table: depths, dims, attention heads of every block
    "s": ([3, 3, 9, 3], [96, 192, 320, 384], [1] * 3 + [3] * 3 + [7] * 4 + [9] * 5 + [11] * 3),
    "b": ([4, 6, 14, 6], [96, 192, 384, 512], [1] * 4 + [3] * 6 + [8] * 7 + [10] * 7 + [15] * 6),
    "l": ([4, 6, 18, 8], [96, 192, 448, 640], [1] * 4 + [3] * 6 + [10] * 9 + [12] * 9 + [19] * 8),
}


MAKERS: dict[str, Callable[..., IFormer]] = {"s": networks.iformer_s, "b": networks.iformer_b, "l": networks.iformer_l}


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
def test_published_sizes(
    parameters: Callable[..., int],
    on_meta: Callable[..., tuple[IFormer, float]],
    size: str,
    side: int,
    count: int,
    mult_adds: float,
) -> None:
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


def test_parts_by_hand(parameters: Callable[..., int], on_meta: Callable[..., tuple[IFormer, float]]) -> None:
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


def test_shapes_at_224(on_meta: Callable[..., tuple[IFormer, float]]) -> None:
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


def test_attention_on_all_tokens_costs_more_in_stage_1(on_meta: Callable[..., tuple[IFormer, float]]) -> None:
    """784 tokens for every head of stage 1; what the fuse's wider input costs instead is less."""
    full = on_meta(networks.iformer_s)[1]
    more = on_meta(partial(networks.iformer_s, heads=(2, 3, (7,) * 4 + (9,) * 5, 11)))[1]
    unpooled = on_meta(lambda: IFormer(Layout(**{**SMALL, "pools": (1, 2, 1, 1)}), 1000))[1]
    assert more > full
    assert more - full == pytest.approx(3 * head_cost() / 1e9, rel=1e-6)
    assert unpooled > full


def test_attention_sees_784_tokens_in_stage_1_and_196_in_stage_3(on_meta: Callable[..., tuple[IFormer, float]]) -> None:
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


def test_without_the_projection_a_block_is_its_ffn(random: Callable[..., Tensor], tiny: Callable[..., IFormer]) -> None:
    block = tiny().stages[0].blocks[0]  # type: ignore[index, union-attr]
    nn.init.zeros_(block.mixer.project.weight)
    nn.init.zeros_(block.mixer.project.bias)
    x = random(2, 8, 8, 32)
    assert torch.allclose(block(x), x + block.ffn(block.norm2(x)), atol=1e-6)


def test_blocks_with_layer_scale_start_as_identities(random: Callable[..., Tensor]) -> None:
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


def test_initial_weights_by_fan_in(tiny: Callable[..., IFormer]) -> None:
    torch.manual_seed(0)
    network = tiny(dims=[64, 96], initial_std=None)
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


def test_layer_norms_add_a_millionth_to_the_variance(tiny: Callable[..., IFormer]) -> None:
    """Tokens of +-0.001: the variance is as large as what is added to it, so that they come out at 1 / sqrt(2)."""
    network = tiny()
    x = 1e-3 * torch.tensor([1.0, -1.0]).repeat(2, 3, 24)  # (2, 3, 48)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.LayerNorm)]
    assert len(norms) == 2 * 3 + 1
    for layer in norms:
        y = layer(x[..., : layer.normalized_shape[0]])
        assert torch.allclose(y.abs(), torch.full_like(y, 0.5**0.5), atol=1e-3)


def test_every_parameter_gets_a_gradient(random: Callable[..., Tensor], tiny: Callable[..., IFormer]) -> None:
    network = tiny()
    F.cross_entropy(network(random(4, 1, 16, 16)), torch.arange(4)).backward()
    assert not [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]


def test_autocast_keeps_the_residual_stream_in_full_precision(
    random: Callable[..., Tensor], tiny: Callable[..., IFormer]
) -> None:
    network = tiny()
    seen: list[torch.dtype] = []
    network.stages[1].blocks[1].register_forward_hook(lambda m, i, o: seen.append(o.dtype))  # type: ignore[index, union-attr, func-returns-value]
    x = random(4, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(network(x), torch.arange(4))
    loss.backward()
    assert seen == [torch.float32]
    assert float(loss.detach()) == pytest.approx(float(F.cross_entropy(network(x), torch.arange(4)).detach()), abs=0.02)


def test_drop_path_grows_with_depth_and_keeps_the_expectation(
    on_meta: Callable[..., tuple[IFormer, float]], random: Callable[..., Tensor], tiny: Callable[..., IFormer]
) -> None:
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
def test_wrong_arguments_are_named(tiny: Callable[..., IFormer], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**options)


def test_high_mixers_alone_and_attention_alone(random: Callable[..., Tensor], tiny: Callable[..., IFormer]) -> None:
    for heads, names in (([0, 0], {"conv", "pool"}), ([4, 6], {"attention"})):
        network = tiny(heads=heads)
        assert {name for _, _, m in network.mixers() for name in m.branches} == names
        assert network(random(2, 1, 16, 16)).shape == (2, 5)
    fuse = tiny(heads=[4, 6]).stages[0].blocks[0].mixer.depthwise  # type: ignore[index, union-attr]
    assert fuse.weight.shape == (32, 1, 3, 3)  # the baseline keeps the fusing convolution
