"""The vision transformer with prompting blocks against timm, by limit cases and by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.transhp.levels import selectivity
from modules.transhp.module import TransHP
from modules.transhp.networks import COARSE, Absorbed, Blocks, PromptingBlock, ViT, coarse_scores, from_timm
from tests.papers.transhp.helpers import (
    LEVELS,
    make_images,
    mask_prompts,
    only_prompting,
    parameters,
    published_network,
    randomise,
    small_network,
)


def test_published_sizes() -> None:
    with torch.device("meta"):
        assert parameters(published_network("small")) == 22_050_664
        assert parameters(published_network("small", LEVELS, "prompts")) == 22_654_312
        assert (
            parameters(published_network("base", LEVELS, "prompts")) - parameters(published_network("base"))
            == 1_207_296
        )
        assert parameters(published_network("large")) == 304_326_632
        assert parameters(published_network("small", [(8, 20)], "prompts", 100)) == 21_704_164 + 2 * 20 * 384
        for size, name in (("small", "deit_small_patch16_224"), ("base", "deit_base_patch16_224")):
            assert parameters(published_network(size)) == parameters(timm.create_model(name, pretrained=False))


@pytest.mark.parametrize(
    ("size", "name"),
    [
        ("small", "deit_small_patch16_224"),
        ("small", "vit_small_patch16_224"),
        pytest.param("base", "vit_base_patch16_224", marks=pytest.mark.slow),
        pytest.param("base", "deit_base_patch16_224", marks=pytest.mark.slow),
        pytest.param("large", "vit_large_patch16_224", marks=pytest.mark.slow),
    ],
)
def test_the_plain_network_is_timms(size: str, name: str) -> None:
    theirs = timm.create_model(name, pretrained=False).eval()
    randomise(theirs)
    ours = published_network(size).eval()
    ours.load_state_dict(from_timm(theirs.state_dict()))
    x = make_images(1, 224, 3)
    with torch.inference_mode():
        expected = theirs(x)
        assert float(expected.std()) > 0.1
        assert torch.allclose(ours(x), expected, atol=1e-4)


def test_prompting_blocks_are_timms_blocks_on_longer_sequences() -> None:
    """The whole ImageNet network, from timm's parts and names as the released weights have them."""
    theirs = timm.create_model("deit_small_patch16_224", pretrained=False).eval()
    source = torch.Generator().manual_seed(0)
    p = {number: torch.randn(m, 384, generator=source) for number, m in LEVELS}
    w = {number: torch.randn(m, 384, generator=source) for number, m in LEVELS}
    randomise(theirs)
    x = make_images(2, 224, 3)
    expected = []
    with torch.inference_mode():
        tokens = theirs.patch_embed(x)
        tokens = torch.cat([theirs.cls_token.expand(2, -1, -1), tokens], 1) + theirs.pos_embed
        for number, block in enumerate(theirs.blocks):
            if number in p:
                out = block(torch.cat([tokens, p[number].expand(2, -1, -1)], 1))
                tokens, p_hat = out[:, :197], out[:, 197:]
                expected.append((p_hat @ w[number].T).diagonal(dim1=1, dim2=2))
            else:
                tokens = block(tokens)
        logits = theirs.head(theirs.norm(tokens)[:, 0])
    state = {
        **theirs.state_dict(),
        **{f"prototype_{number}.weight": v for number, v in p.items()},
        **{f"matrix_{number}.weight": v for number, v in w.items()},
    }
    ours = published_network("small", LEVELS, "prompts").eval()
    ours.load_state_dict(from_timm(state))
    with torch.inference_mode():
        z, scores = ours.score(x)
        assert torch.allclose(z, logits, atol=1e-4)
        assert torch.allclose(ours(x), logits, atol=1e-4)
    assert [s.shape[1] for s in scores] == [m for _, m in LEVELS]
    for s, e in zip(scores, expected, strict=True):
        assert torch.allclose(s, e, atol=1e-4 * float(e.abs().max()))


def test_tokens_that_each_block_sees_on_cifar_100() -> None:
    """1 + 196 tokens, and 20 prompts in block 8 alone: they are not carried on."""
    network = ViT(224, 16, 100, Blocks(12, 12, 2), [(8, 20)], "prompts").eval()
    seen: list[int] = []
    for block in network.blocks:
        block.attn.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[1]))  # type: ignore[union-attr]
    network.score(make_images(1, 224, 3))
    assert seen == [197] * 8 + [217] + [197] * 3
    seen.clear()
    network(make_images(1, 224, 3))
    assert seen == [197] * 8 + [217] + [197] * 3


def test_scores_are_a_diagonal() -> None:
    p_hat, w = torch.randn(2, 3, 4), torch.randn(3, 4)
    full = p_hat @ w.T  # (2, 3, 3)
    assert torch.allclose(coarse_scores(p_hat, w), full.diagonal(dim1=1, dim2=2))
    assert torch.allclose(coarse_scores(p_hat, w), torch.stack([(p_hat[:, i] * w[i]).sum(1) for i in range(3)], 1))
    assert not torch.allclose(coarse_scores(p_hat, w).softmax(1), full.softmax(2).diagonal(dim1=1, dim2=2))


def test_with_masked_prompts_the_network_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    prompted, plain = small_network(), small_network("none")
    randomise(prompted)
    plain.load_state_dict({n: p for n, p in prompted.state_dict().items() if n in plain.state_dict()})
    x = make_images()
    assert not torch.allclose(prompted(x), plain(x), atol=1e-3)
    assert torch.allclose(prompted.forward_masked(x), plain(x), atol=1e-6)
    mask_prompts(monkeypatch, 5)
    assert torch.allclose(prompted(x), plain(x), atol=1e-6)
    assert torch.allclose(prompted.score(x)[0], plain(x), atol=1e-6)


def test_the_order_of_prompts_does_not_matter() -> None:
    network = small_network()
    randomise(network)
    before, (scores,) = network.score(make_images())
    order = torch.tensor([3, 0, 4, 1, 2])
    block = only_prompting(network)
    block.prompts.data, block.prototypes.data = block.prompts[order], block.prototypes[order]
    after, (permuted,) = network.score(make_images())
    assert torch.allclose(after, before, atol=1e-5)
    assert torch.allclose(permuted, scores[:, order], atol=1e-4)


@pytest.mark.parametrize("coarse", COARSE)
def test_training_and_evaluation_give_the_same_logits(coarse: str) -> None:
    network = small_network(coarse)
    randomise(network)
    x = make_images()
    trained = network.train().score(x)[0]
    assert torch.allclose(network.eval().score(x)[0], trained, atol=1e-5)
    assert torch.allclose(network(x), trained, atol=1e-5)
    dropping = small_network(coarse, drop_path=0.5)
    dropping.load_state_dict(network.state_dict())
    assert torch.allclose(dropping.eval()(x), trained, atol=1e-5)
    assert not torch.allclose(dropping.train()(x), trained, atol=1e-3)


def test_attention_without_preference_absorbs_equal_shares() -> None:
    network = ViT(8, 4, 10, Blocks(16, 1, 2, 2.0), [(0, 5)], "prompts", in_channels=1)
    randomise(network)
    block = only_prompting(network)
    with torch.no_grad():
        block.attn.qkv.weight[:32] = 0
        block.attn.qkv.bias[:32] = 0
        block.fc1.weight.zero_()
        block.fc2.weight.zero_()
    absorbed: list[Absorbed] = []
    network.score(make_images(), absorbed)
    assert torch.allclose(absorbed[0].tokens, torch.tensor(1 / (4 + 1 + 5)))
    assert torch.allclose(absorbed[0].class_token, torch.tensor(1 / (4 + 1 + 5)))
    target, ratio = selectivity(absorbed[0].tokens, torch.arange(6) % 5)
    assert torch.allclose(target, torch.tensor(0.1))
    assert torch.allclose(ratio, torch.ones(6))


def test_absorption_is_what_attention_does() -> None:
    """With the identity for values, attention's own output says how much came from each token."""
    block = PromptingBlock(3, 8, 1, 2.0, 0.0)
    randomise(block, 3)
    x = torch.randn(2, 5, 8)
    shares = block.attn.shares(block.norm1(block.append_prompts(x)), 5)
    q, k, _ = block.attn.split(block.norm1(block.append_prompts(x)))
    v = torch.eye(8).expand(2, 1, 8, 8)
    assert torch.allclose(F.scaled_dot_product_attention(q[:, :, :5], k, v)[:, 0], shares, atol=1e-6)
    assert torch.allclose(shares.sum(-1), torch.ones(2, 5))
    assert torch.allclose(block.absorption(x).tokens, shares[:, :, 5:].mean(1))
    assert torch.allclose(block.absorption(x).class_token, shares[:, 0, 5:])


def test_no_prompts_is_one_linear_head_on_the_class_token_after_the_block() -> None:
    network = small_network("class_token")
    randomise(network)
    seen: list[Tensor] = []
    network.blocks[1].register_forward_hook(lambda m, given, output: seen.append(output))
    _, (s,) = network.score(make_images())
    norm, linear = network.coarse_heads["1"]  # type: ignore[misc]
    assert torch.allclose(s, linear(norm(seen[0][:, 0])))
    assert parameters(network) - parameters(small_network("none")) == 2 * 16 + 16 * 5 + 5


def test_arms_start_alike() -> None:
    """Same seed, same initial weights wherever two arms share a parameter."""
    starts = {coarse: small_network(coarse, seed=3).state_dict() for coarse in COARSE}
    for coarse in ("prompts", "class_token"):
        assert all(torch.equal(starts[coarse][name], value) for name, value in starts["none"].items())
    assert not torch.equal(small_network("none", seed=4).state_dict()["head.weight"], starts["none"]["head.weight"])
    drawn = ViT(224, 16, 1000, Blocks(96, 2, 3), [(0, 50)], "prompts")
    for name, p in drawn.named_parameters():
        if name.endswith("bias") and "patch_embed" not in name:
            assert float(p.abs().max()) == 0
        elif "norm" not in name:
            spread = 1 / math.sqrt(3 * 3 * 16 * 16) if "patch_embed" in name else 0.02
            assert float(p.detach().std()) == pytest.approx(spread, rel=0.15), name


def test_attention_can_start_as_uneven_as_at_the_published_width() -> None:
    """Standard deviation of the logits of one head before scaling: C std^2 for unit-variance tokens, here 0.154."""
    spreads = {}
    for dim, heads, std in ((384, 6, 0.02), (48, 3, 0.02 * 8**0.5), (48, 3, 0.02)):
        torch.manual_seed(0)
        attention = ViT(8, 4, 10, Blocks(dim, 1, heads, initial_std=std), in_channels=1).blocks[0].attn
        tokens = torch.randn(64, 20, dim)
        q, k, _ = attention.split(tokens)
        spreads[dim, std] = float((q @ k.transpose(-2, -1) / (dim / heads) ** 0.5).detach().std())
    published, alike, flat = spreads.values()
    assert published == pytest.approx(0.15, rel=0.1)
    assert alike == pytest.approx(published, rel=0.1)
    assert flat == pytest.approx(published / 8, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coarse": "wrong"}, "expected one of prompts, class_token, none"),
        ({"levels": [(3, 5)]}, "from 0 to 2"),
        ({"levels": [(-1, 5)]}, "from 0 to 2"),
        ({"levels": [(1, 5), (0, 2)]}, "in this order"),
    ],
)
def test_a_network_names_what_it_takes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_network(**options)
    with pytest.raises(ValueError, match="no multiple"):
        ViT(9, 4, 10, Blocks(16, 2, 2))
    with pytest.raises(ValueError, match="no multiple"):
        ViT(8, 4, 10, Blocks(16, 2, 3))
    with pytest.raises(ValueError, match="weights has 2 numbers for the 1 levels"):
        TransHP(small_network(), 10, [1.0, 1.0])
