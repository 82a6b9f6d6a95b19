"""ADM's U-Net: published size, blocks that can be read, and what is hung on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from modules.common.unet import ResBlock, SelfAttention, UNet, embed_time

ADM = {"image_size": 256, "in_channels": 3, "width": 256, "multipliers": (1, 1, 2, 2, 4, 4), "attention": (32, 16, 8)}


@pytest.fixture
def small() -> Callable[..., UNet]:
    """8x8 images, 3 resolutions, 13 blocks; the middle one is block 7."""

    def build(**options: Any) -> UNet:
        torch.manual_seed(0)
        sizes = {"image_size": 8, "in_channels": 2, "width": 8, "multipliers": (1, 2, 2), "res_blocks": 1}
        return UNet(**{**sizes, "attention": (4,), "head_channels": 4, "groups": 4, "zero": False, **options})

    return build


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_published_size() -> None:
    with torch.device("meta"):
        network = UNet(**ADM, learned_variance=True)  # type: ignore[arg-type]
        features = network.features(torch.zeros(1, 3, 256, 256), torch.zeros(1), [15, 19, 24])
    assert count(network) == 552_814_086
    assert count(network.up_to(24)) == 415_471_616
    assert count(network.up_to(19)) == 210_904_064
    assert (network.middle, len(network.shapes)) == (19, 37)
    assert {b: tuple(f.shape[1:]) for b, f in features.items()} == {b: network.shapes[b] for b in (15, 19, 24)}
    assert network.shapes[37] == (256, 256, 256)


def test_channels_and_sides_of_all_published_blocks() -> None:
    """The released code's own list."""
    with torch.device("meta"):
        shapes = UNet(**ADM).shapes  # type: ignore[arg-type]
    sides = (
        [256] * 3 + [128] * 3 + [64] * 3 + [32] * 3 + [16] * 3 + [8] * 6 + [16] * 3 + [32] * 3 + [64] * 3 + [128] * 3
    )
    channels = [256] * 7 + [512] * 6 + [1024] * 12 + [512] * 6 + [256] * 6
    assert [s[1] for s in shapes.values()] == [*sides, *[256] * 4]
    assert [s[0] for s in shapes.values()] == channels


def test_names_are_those_of_the_released_file() -> None:
    with torch.device("meta"):
        names = UNet(**ADM, learned_variance=True).state_dict()  # type: ignore[arg-type]
    assert len(names) == 566
    assert {
        *("time_embed.0.weight", "time_embed.2.bias", "input_blocks.0.0.weight", "out.0.weight", "out.2.bias"),
        *("input_blocks.3.0.in_layers.0.weight", "input_blocks.3.0.emb_layers.1.bias"),
        *("input_blocks.3.0.out_layers.3.weight", "input_blocks.7.0.skip_connection.weight"),
        *("middle_block.1.norm.weight", "middle_block.1.qkv.weight", "middle_block.1.proj_out.bias"),
        *("middle_block.2.in_layers.2.weight", "output_blocks.4.1.qkv.bias", "output_blocks.2.2.out_layers.0.weight"),
    } <= set(names)


def test_reading_a_block_equals_a_hook_on_it(small: Callable[..., UNet]) -> None:
    network = small()
    x, t = torch.randn(3, 2, 8, 8), torch.tensor([0, 5, 900])
    outputs: dict[int, torch.Tensor] = {}
    blocks = [*network.input_blocks, network.middle_block, *network.output_blocks]
    for number, block in enumerate(blocks, start=1):
        block.register_forward_hook(lambda _, __, output, number=number: outputs.update({number: output}))
    network(x, t)
    hooked = dict(outputs)
    for number, shape in network.shapes.items():
        read = network.features(x, t, [number])[number]
        assert torch.equal(read, hooked[number])
        assert tuple(read.shape[1:]) == shape
        assert torch.equal(network.up_to(number).features(x, t, [number])[number], read)


def test_blocks_above_are_not_run(small: Callable[..., UNet]) -> None:
    network = small()
    network.output_blocks[2].register_forward_hook(lambda *_: pytest.fail("block 10 was run"))
    assert set(network.features(torch.randn(1, 2, 8, 8), torch.zeros(1), [2, 9])) == {2, 9}


def test_the_cut_network_leaves_the_whole_one_as_it_was(small: Callable[..., UNet]) -> None:
    network = small()
    before = count(network)
    cut = network.up_to(4)
    assert not hasattr(cut, "middle_block")
    assert cut.input_blocks[3] is network.input_blocks[3]
    assert count(network) == before
    assert network(torch.randn(1, 2, 8, 8), torch.zeros(1)).shape == (1, 2, 8, 8)


def test_a_network_that_starts_at_zero(small: Callable[..., UNet]) -> None:
    x, t = torch.randn(2, 2, 8, 8), torch.tensor([3, 700])
    network = small(zero=True)
    assert not network(x, t).any()
    stem = network.features(x, t, [1])[1]
    assert torch.equal(network.features(x, t, [3])[3], nn.functional.avg_pool2d(network.features(x, t, [2])[2], 2))
    assert torch.equal(network.features(x, t, [2])[2], stem)  # the first residual block has as many channels
    assert bool(small()(x, t).any())


def test_the_time_changes_the_output(small: Callable[..., UNet]) -> None:
    network, x = small(), torch.randn(1, 2, 8, 8)
    assert not torch.allclose(network(x, torch.tensor([3])), network(x, torch.tensor([600])))


def test_embedding_of_the_time_by_hand() -> None:
    embedding = embed_time(torch.tensor([0, 2]), 4)
    assert embedding[0].tolist() == [1, 1, 0, 0]
    angles = torch.tensor([2.0, 0.02])
    assert torch.allclose(embedding[1], torch.cat([angles.cos(), angles.sin()]))


def test_attention_against_torchs(small: Callable[..., UNet]) -> None:
    torch.manual_seed(0)
    ours, theirs = SelfAttention(8, 4, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    order = torch.arange(24).view(2, 3, 4).transpose(0, 1).flatten()  # a head's q, k, v are neighbours in ours
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight[order, :, 0])
        theirs.in_proj_bias.copy_(ours.qkv.bias[order])  # type: ignore[index]
        theirs.out_proj.weight.copy_(ours.proj_out.weight[:, :, 0])
        theirs.out_proj.bias.copy_(ours.proj_out.bias)
    x = torch.randn(2, 8, 3, 3)
    tokens = ours.norm(x.flatten(2)).transpose(1, 2)
    expected = x + theirs(tokens, tokens, tokens)[0].transpose(1, 2).view_as(x)
    assert torch.allclose(ours(x), expected, atol=1e-6)


def test_residual_block_scales_and_shifts() -> None:
    block = ResBlock(4, 4, 6, 2)
    nn.init.zeros_(block.emb_layers[1].weight)  # type: ignore[arg-type]
    nn.init.constant_(block.emb_layers[1].bias, -1.0)  # type: ignore[arg-type]
    x = torch.randn(2, 4, 4, 4)
    expected = x + block.out_layers[3](nn.functional.silu(torch.full_like(x, -1.0)))  # scale -1 + 1, shift -1
    assert torch.allclose(block(x, torch.randn(2, 6)), expected, atol=1e-6)


def test_a_condition_is_added_to_the_embedding(small: Callable[..., UNet]) -> None:
    network, x, t = small(), torch.randn(2, 2, 8, 8), torch.tensor([3, 4])
    labelled = small(classes=3)
    labelled.load_state_dict(network.state_dict(), strict=False)
    y = torch.tensor([2, 0])
    assert torch.equal(labelled(x, t, y), network(x, t, condition=labelled.label_emb(y)))
    assert torch.equal(network(x, t, condition=torch.zeros(2, 32)), network(x, t))
    with pytest.raises(ValueError, match="labels are missing, but classes=3"):
        labelled(x, t)
    with pytest.raises(ValueError, match="labels are given, but classes=None"):
        network(x, t, y)


def test_control_reaches_the_output_blocks_alone(small: Callable[..., UNet]) -> None:
    network, x, t = small(), torch.randn(2, 2, 8, 8), torch.tensor([3, 4])
    zeros = {n: torch.zeros(2, *network.shapes[n]) for n in range(1, network.middle + 1)}
    assert torch.equal(network(x, t, control=zeros), network(x, t))
    for number in (1, 6, network.middle):
        changed = network(x, t, control={number: torch.ones(2, *network.shapes[number])})
        assert not torch.allclose(changed, network(x, t))
    embedding = network.embed(t)
    plain = dict(network.walk(x, embedding, {}))
    controlled = dict(network.walk(x, embedding, {2: torch.ones(2, *network.shapes[2])}))
    assert all(torch.equal(plain[n], controlled[n]) for n in range(1, network.middle + 1))


def test_half_precision_stays_near(small: Callable[..., UNet]) -> None:
    network, x, t = small(), torch.randn(2, 2, 8, 8), torch.tensor([3, 900])
    with torch.autocast("cpu", torch.bfloat16):
        half = network.features(x, t, [9])[9]
    assert half.dtype == torch.float32
    exact = network.features(x, t, [9])[9]
    assert float(((half - exact).abs().mean() / exact.abs().mean()).detach()) < 0.03


def test_wrong_sizes(small: Callable[..., UNet]) -> None:
    with pytest.raises(ValueError, match="image_size=10: expected a multiple of 4"):
        small(image_size=10)
    with pytest.raises(ValueError, match="8 channels: expected a multiple of groups=3"):
        small(groups=3)


def test_control_of_the_middle_is_added_to_what_follows(small: Callable[..., UNet]) -> None:
    network = small()
    x, t = torch.randn(2, 2, 8, 8), torch.tensor([3, 400])
    plain = dict(network.walk(x, network.embed(t), {}))
    control = torch.randn_like(plain[network.middle])
    steered = dict(network.walk(x, network.embed(t), {network.middle: control}))
    assert torch.allclose(steered[network.middle], plain[network.middle] + control)
    assert torch.equal(steered[network.middle - 1], plain[network.middle - 1])


def test_features_are_those_of_the_label_and_the_condition(small: Callable[..., UNet]) -> None:
    network = small(classes=3)
    x, t, y = torch.randn(2, 2, 8, 8), torch.tensor([3, 400]), torch.tensor([0, 2])
    condition = torch.randn(2, 32)
    (read,) = network.features(x, t, [5], y, condition).values()
    assert torch.equal(read, dict(network.walk(x, network.embed(t, y, condition), {}))[5])
    assert not torch.allclose(read, network.features(x, t, [5], y)[5])
    assert not torch.allclose(read, network.features(x, t, [5], y.flip(0), condition)[5])
    with pytest.raises(ValueError, match="labels are missing, but classes=3"):
        network.features(x, t, [5])


def test_a_cut_network_says_which_blocks_it_has(small: Callable[..., UNet]) -> None:
    network = small()
    for block in (3, 7, 9):
        assert list(network.up_to(block).shapes) == list(range(1, block + 1))
    assert len(network.shapes) == 13
