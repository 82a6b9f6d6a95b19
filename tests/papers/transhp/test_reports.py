"""What TransHP says of a step and of a test, and what it asks of the data."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import StochasticDepth

from modules.transhp.levels import selectivity
from modules.transhp.module import TransHP
from modules.transhp.networks import Absorbed, Block, Blocks, PromptingBlock, ViT
from tests.papers.transhp.helpers import make_batch, make_images, randomise, small_network


def two_levels() -> TransHP:
    module = TransHP(small_network(levels=((0, 2), (1, 5))), 10, [0.5, 2.0], label_smoothing=0.2)
    randomise(module.network)
    return module


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, y, five = make_batch()
    return x, y, torch.cat([five % 2, five], 1)


def test_a_step_tells_each_of_its_losses_and_the_fine_accuracy() -> None:
    module = two_levels()
    x, _, coarse = batch()
    tracked: dict[str, Any] = {}
    module.track = lambda count, **terms: tracked.update(terms, count=count)  # type: ignore[method-assign]
    z, scores = (output.detach() if isinstance(output, torch.Tensor) else output for output in module.network.score(x))
    y = z.argmax(1)
    y[:2] = (y[:2] + 1) % 10
    module.training_step((x, y, coarse), 0)

    def smooth(logits: torch.Tensor, labels: torch.Tensor) -> float:
        """0.8 of the label's and 0.2 of all classes' mean."""
        log_p = logits.detach().log_softmax(1)
        return float(-(0.8 * log_p.gather(1, labels[:, None])[:, 0] + 0.2 * log_p.mean(1)).mean())

    expected = {"fine": smooth(z, y)} | {f"coarse_{n}": smooth(s, coarse[:, n]) for n, s in enumerate(scores)}
    for name, value in expected.items():
        assert float(tracked[name].detach()) == pytest.approx(value, rel=1e-4), name
    total = expected["fine"] + 0.5 * expected["coarse_0"] + 2 * expected["coarse_1"]
    assert float(tracked["loss"].detach()) == pytest.approx(total, rel=1e-4)
    assert float(tracked["top1"]) == pytest.approx(100 * 4 / 6)
    assert tracked["count"] == 6


def test_each_test_tells_of_every_level_and_starts_anew() -> None:
    module = two_levels().eval()
    x, y, coarse = batch()
    logged: list[dict[str, float]] = []

    def test(*parts: slice) -> dict[str, float]:
        logged.append({})
        for part in parts:
            module.test_step((x[part], y[part], coarse[part]), 0)
        module.on_test_epoch_end()
        return logged[-1]

    module.log_dict = lambda values, **_: logged[-1].update({k: float(v) for k, v in values.items()})  # type: ignore[method-assign, assignment]
    module.log = lambda name, value, **_: logged[-1].update({name: float(value)})  # type: ignore[method-assign, assignment]
    test(slice(0, 2))
    metrics = test(slice(0, 4), slice(4, 6))

    absorbed: list[Absorbed] = []
    with torch.no_grad():
        z, scores = module.network.score(x, absorbed)
    for level, s in enumerate(scores):
        own = coarse[:, level]
        right = 100 * float((s.argmax(1) == own).float().mean())
        assert metrics[f"test/coarse_top1_{level}"] == pytest.approx(right, abs=1e-4)
        for suffix, weights in (("", absorbed[level].tokens), ("_class", absorbed[level].class_token)):
            target, ratio = selectivity(weights, own)
            assert metrics[f"test/absorption{suffix}_{level}"] == pytest.approx(float(target.mean()), rel=1e-4)
            assert metrics[f"test/ratio{suffix}_{level}"] == pytest.approx(float(ratio.mean()), rel=1e-4)
    assert metrics["test/ratio"] == metrics["test/ratio_1"]
    assert metrics["test/top1"] == pytest.approx(100 * float((z.argmax(1) == y).float().mean()), abs=1e-4)
    masked = module.network.forward_masked(x).argmax(1)
    assert metrics["test/masked_top1"] == pytest.approx(100 * float((masked == y).float().mean()), abs=1e-4)
    assert metrics["test/n"] == 6


@pytest.mark.parametrize(
    ("coarse", "prompts", "refused"),
    [
        ("prompts", [2, 5], False),
        ("prompts", [5, 2], True),
        ("class_token", [2, 4], True),
        ("prompts", None, False),
        ("none", [2, 4], False),
    ],
)
def test_the_datas_levels_are_the_networks(coarse: str, prompts: list[int] | None, refused: bool) -> None:
    network = small_network(coarse, levels=((0, 2), (1, 5)))
    module = TransHP(network, 10, [1.0] * len(network.levels))
    module._trainer = SimpleNamespace(datamodule=SimpleNamespace(prompts=prompts))  # type: ignore[assignment]
    if refused:
        with pytest.raises(ValueError, match=r"levels of \[\d, \d\] coarse classes, the network of \[2, 5\]"):
            module.on_fit_start()
    else:
        module.on_fit_start()


def test_layer_norms_add_a_millionth_to_the_variance() -> None:
    """Tokens of +-0.001: the variance is as large as what is added to it, so that they come out at 1 / sqrt(2)."""
    for coarse in ("prompts", "class_token"):
        norms = [layer for layer in small_network(coarse).modules() if isinstance(layer, torch.nn.LayerNorm)]
        assert len(norms) >= 7
        for layer in norms:
            y = layer(1e-3 * torch.tensor([1.0, -1.0]).repeat(2, layer.normalized_shape[0] // 2))
            assert torch.allclose(y.abs(), torch.full_like(y, 0.5**0.5), atol=1e-3)


def test_paths_are_dropped_more_often_the_deeper_the_block() -> None:
    network = small_network(drop_path=0.3)
    drops = [block.drop_path for block in network.blocks]
    assert isinstance(drops[0], torch.nn.Identity)
    assert [drop.p for drop in drops[1:] if isinstance(drop, StochasticDepth)] == pytest.approx([0.15, 0.3])
    assert {drop.mode for drop in drops[1:] if isinstance(drop, StochasticDepth)} == {"row"}
    single = ViT(8, 4, 10, Blocks(16, 1, 2, drop_path=0.3), in_channels=1)
    assert isinstance(single.blocks[0].drop_path, torch.nn.Identity)


def test_a_block_by_hand() -> None:
    """x + attention of the normalised x, then + MLP: with queries, their rows alone."""
    block = Block(8, 2, 2.5, 0.0)
    randomise(block, 2)
    assert block.fc1.out_features == 20
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        normalised = F.layer_norm(x, (8,), block.norm1.weight, block.norm1.bias, 1e-6)
        q, k, v = (normalised @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, 2)
        heads = []
        for part in (slice(0, 4), slice(4, 8)):
            shares = (q[..., part] @ k[..., part].transpose(1, 2) / 2).softmax(-1)  # sqrt(8 / 2)
            heads.append(shares @ v[..., part])
        y = x + torch.cat(heads, 2) @ block.attn.proj.weight.T + block.attn.proj.bias
        hidden = F.gelu(
            F.layer_norm(y, (8,), block.norm2.weight, block.norm2.bias, 1e-6) @ block.fc1.weight.T + block.fc1.bias
        )
        y = y + hidden @ block.fc2.weight.T + block.fc2.bias
        assert torch.allclose(block(x), y, atol=1e-4)
        assert torch.allclose(block(x, 2), y[:, :2], atol=1e-4)


def test_shares_of_attention_are_the_mean_over_heads() -> None:
    block = PromptingBlock(3, 8, 2, 2.0, 0.0)
    randomise(block, 4)
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z = block.norm1(block.append_prompts(x))
        q, k, _ = (z @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, 2)
        by_head = [(q[..., p] @ k[..., p].transpose(1, 2) / 2).softmax(-1) for p in (slice(0, 4), slice(4, 8))]
        expected = (by_head[0] + by_head[1]) / 2
        assert torch.allclose(block.absorption(x).tokens, expected[:, :5, 5:].mean(1), atol=1e-5)
        assert torch.allclose(block.absorption(x).class_token, expected[:, 0, 5:], atol=1e-5)


def test_a_network_has_deits_defaults() -> None:
    network = ViT(8, 4, 10, Blocks(16, 2, 2))
    assert network.patch_embed.in_channels == 3
    assert network.blocks[0].fc1.out_features == 64  # type: ignore[union-attr]
    assert network.levels == []
    assert network(make_images(2, channels=3)).shape == (2, 10)
    assert TransHP(network, 10).label_smoothing == 0.1
