"""The independent checks of TransHP: hand-computed values, agreement with timm, limit cases, gradient facts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import timm
import torch
from timm.scheduler import CosineLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.plan import Plan
from modules.common.schedules import Position
from modules.transhp import module as transhp
from modules.transhp import networks
from modules.transhp.module import Levels, TransHP, coarse_loss
from modules.transhp.networks import PromptingBlock, ViT, coarse_scores, from_timm

SIZES = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
LEVELS = [
    (block, m + 1) for block, m in enumerate((2, 2, 2, 4, 9, 16, 25, 49, 90, 170, 406))
]  # one class for "no ancestor"
WEIGHTS = [0.1] * 5 + [0.15] * 4 + [1.0, 1.0]


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def published(size: str, levels: Any = (), coarse: str = "none", classes: int = 1000) -> ViT:
    dim, depth, heads = SIZES[size]
    return ViT(224, 16, classes, dim, depth, heads, levels=levels, coarse=coarse)


def small(coarse: str = "prompts", levels: Any = ((1, 5),), seed: int = 0, **options: Any) -> ViT:
    return ViT(8, 4, 10, 16, 3, 2, 2.0, levels, coarse, in_channels=1, init_seed=seed, **options)


def loud(module: nn.Module, seed: int = 0, scale: float = 0.5) -> None:
    """Every parameter random and of a size that matters, biases, norms and tokens too."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            spread = scale if p.ndim < 2 or p.shape[0] == 1 else 1 / math.sqrt(p[0].numel())
            p.copy_(torch.randn(p.shape, generator=source) * spread + (1.0 if p.ndim < 2 else 0.0))


def images(count: int = 6, side: int = 8, channels: int = 1, seed: int = 1) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def batch(count: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    y = torch.arange(count) % 10
    return images(count), y, (y // 2)[:, None]


def only_prompting(network: ViT) -> PromptingBlock:
    (block,) = (b for b in network.blocks if isinstance(b, PromptingBlock))
    return block


def mask_prompts(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    """Keys behind the first `tokens` get no attention at all."""
    real = F.scaled_dot_product_attention

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return real(q, k, v, attn_mask=torch.arange(k.shape[2]).expand(q.shape[2], -1) < tokens)

    monkeypatch.setattr(F, "scaled_dot_product_attention", masked)


def test_published_sizes() -> None:
    with torch.device("meta"):
        assert parameters(published("small")) == 22_050_664
        assert parameters(published("small", LEVELS, "prompts")) == 22_654_312
        assert parameters(published("base", LEVELS, "prompts")) - parameters(published("base")) == 1_207_296
        assert parameters(published("large")) == 304_326_632
        assert parameters(published("small", [(8, 20)], "prompts", 100)) == 21_704_164 + 2 * 20 * 384
        for size, name in (("small", "deit_small_patch16_224"), ("base", "deit_base_patch16_224")):
            assert parameters(published(size)) == parameters(timm.create_model(name, pretrained=False))


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
    loud(theirs)
    ours = published(size).eval()
    ours.load_state_dict(from_timm(theirs.state_dict()))
    x = images(1, 224, 3)
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
    loud(theirs)
    x = images(2, 224, 3)
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
    ours = published("small", LEVELS, "prompts").eval()
    ours.load_state_dict(from_timm(state))
    with torch.inference_mode():
        z, scores = ours.scored(x)
        assert torch.allclose(z, logits, atol=1e-4)
        assert torch.allclose(ours(x), logits, atol=1e-4)
    assert [s.shape[1] for s in scores] == [m for _, m in LEVELS]
    for s, e in zip(scores, expected, strict=True):
        assert torch.allclose(s, e, atol=1e-4 * float(e.abs().max()))


def test_tokens_that_each_block_sees_on_cifar_100() -> None:
    """1 + 196 tokens, and 20 prompts in block 8 alone: they are not carried on."""
    network = ViT(224, 16, 100, 12, 12, 2, levels=[(8, 20)], coarse="prompts").eval()
    seen: list[int] = []
    for block in network.blocks:
        block.attn.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[1]))  # type: ignore[union-attr]
    network.scored(images(1, 224, 3))
    assert seen == [197] * 8 + [217] + [197] * 3
    seen.clear()
    network(images(1, 224, 3))
    assert seen == [197] * 8 + [217] + [197] * 3


def test_coarse_loss_by_hand() -> None:
    s, y = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    assert float(coarse_loss(s, y)) == pytest.approx(0.3133, abs=1e-4)
    assert float(coarse_loss(s, y, 0.1)) == pytest.approx(0.3633, abs=1e-4)


@pytest.mark.parametrize("m", [20, 21])
def test_prototypes_of_zero_know_nothing(m: int) -> None:
    s = coarse_scores(torch.randn(4, m, 8), torch.zeros(m, 8))
    for smoothing in (0.0, 0.1):
        assert float(coarse_loss(s, torch.arange(4), smoothing)) == pytest.approx(math.log(m), abs=1e-6)


def test_scores_are_a_diagonal() -> None:
    p_hat, w = torch.randn(2, 3, 4), torch.randn(3, 4)
    full = p_hat @ w.T  # (2, 3, 3)
    assert torch.allclose(coarse_scores(p_hat, w), full.diagonal(dim1=1, dim2=2))
    assert torch.allclose(coarse_scores(p_hat, w), torch.stack([(p_hat[:, i] * w[i]).sum(1) for i in range(3)], 1))
    assert not torch.allclose(coarse_scores(p_hat, w).softmax(1), full.softmax(2).diagonal(dim1=1, dim2=2))


def gradients(module: TransHP) -> dict[str, Tensor | None]:
    module.zero_grad()
    module.training_step(batch(), 0).backward()
    return {name.removeprefix("network."): p.grad for name, p in module.named_parameters()}


def size(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.abs().max())


def test_without_coarse_labels_prompts_learn_and_prototypes_do_not() -> None:
    found = gradients(TransHP(small(), 10, [0.0]))
    assert size(found["blocks.1.prototypes"]) == 0
    assert size(found["blocks.1.prompts"]) > 0
    found = gradients(TransHP(small(), 10, [1.0]))
    assert size(found["blocks.1.prototypes"]) > 0


def test_the_coarse_loss_trains_nothing_above_its_block() -> None:
    network = small()
    x, _, coarse = batch()
    coarse_loss(network.scored(x)[1][0], coarse[:, 0]).backward()
    above = ("blocks.2.", "norm.", "head.")
    for name, p in network.named_parameters():
        assert (size(p.grad) == 0) == name.startswith(above), name


def test_fine_loss_reaches_the_prompts_through_attention_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small()
    loud(network)
    x, y, _ = batch()
    F.cross_entropy(network.scored(x)[0], y).backward()
    assert size(only_prompting(network).prompts.grad) > 0
    network.zero_grad()
    mask_prompts(monkeypatch, 5)
    F.cross_entropy(network.scored(x)[0], y).backward()
    assert size(only_prompting(network).prompts.grad) == 0


def test_with_masked_prompts_the_network_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    prompted, plain = small(), small("none")
    loud(prompted)
    plain.load_state_dict({n: p for n, p in prompted.state_dict().items() if n in plain.state_dict()})
    x = images()
    assert not torch.allclose(prompted(x), plain(x), atol=1e-3)
    mask_prompts(monkeypatch, 5)
    assert torch.allclose(prompted(x), plain(x), atol=1e-6)
    assert torch.allclose(prompted.scored(x)[0], plain(x), atol=1e-6)


def test_the_order_of_prompts_does_not_matter() -> None:
    network = small()
    loud(network)
    before, (scores,) = network.scored(images())
    order = torch.tensor([3, 0, 4, 1, 2])
    block = only_prompting(network)
    block.prompts.data, block.prototypes.data = block.prompts[order], block.prototypes[order]
    after, (permuted,) = network.scored(images())
    assert torch.allclose(after, before, atol=1e-5)
    assert torch.allclose(permuted, scores[:, order], atol=1e-4)


@pytest.mark.parametrize("coarse", networks.COARSE)
def test_training_and_evaluation_give_the_same_logits(coarse: str) -> None:
    network = small(coarse)
    loud(network)
    x = images()
    trained = network.train().scored(x)[0]
    assert torch.allclose(network.eval().scored(x)[0], trained, atol=1e-5)
    assert torch.allclose(network(x), trained, atol=1e-5)
    dropping = small(coarse, drop_path=0.5)
    dropping.load_state_dict(network.state_dict())
    assert torch.allclose(dropping.eval()(x), trained, atol=1e-5)
    assert not torch.allclose(dropping.train()(x), trained, atol=1e-3)


def test_no_label_reaches_the_prediction() -> None:
    """All prompts are there in training and in testing: other labels, same logits and scores."""
    module = TransHP(small(drop_path=0.0), 10, [1.0])
    seen: list[Tensor] = []
    module.network.head.register_forward_hook(lambda m, given, output: seen.append(output.detach()))
    x, y, coarse = batch()
    module.training_step((x, y, coarse), 0)
    module.training_step((x, y.flip(0), (coarse + 1) % 5), 0)
    module.test_step((x, y, coarse), 0)
    module.test_step((x, y.flip(0), (coarse + 1) % 5), 0)
    assert all(torch.allclose(z, seen[0], atol=1e-6) for z in seen)


def test_attention_without_preference_absorbs_equal_shares() -> None:
    network = ViT(8, 4, 10, 16, 1, 2, 2.0, [(0, 5)], "prompts", in_channels=1)
    loud(network)
    block = only_prompting(network)
    with torch.no_grad():
        block.attn.qkv.weight[:32] = 0
        block.attn.qkv.bias[:32] = 0
        block.fc1.weight.zero_()
        block.fc2.weight.zero_()
    absorbed: list[Tensor] = []
    network.scored(images(), absorbed)
    assert torch.allclose(absorbed[0], torch.tensor(1 / (4 + 1 + 5)))
    target, ratio = transhp.selectivity(absorbed[0], torch.arange(6) % 5)
    assert torch.allclose(target, torch.tensor(0.1))
    assert torch.allclose(ratio, torch.ones(6))


def test_absorption_is_what_attention_does() -> None:
    """With the identity for values, attention's own output says how much came from each token."""
    block = PromptingBlock(3, 8, 1, 2.0, 0.0)
    loud(block, 3)
    x = torch.randn(2, 5, 8)
    shares = block.attn.shares(block.norm1(block.prompted(x)), 5)
    q, k, _ = block.attn.split(block.norm1(block.prompted(x)))
    v = torch.eye(8).expand(2, 1, 8, 8)
    assert torch.allclose(F.scaled_dot_product_attention(q[:, :, :5], k, v)[:, 0], shares, atol=1e-6)
    assert torch.allclose(shares.sum(-1), torch.ones(2, 5))
    assert torch.allclose(block.absorbed(x), shares[:, :, 5:].mean(1))


def test_selectivity_and_level_metrics_by_hand() -> None:
    absorbed, coarse = torch.tensor([[0.2, 0.1, 0.05], [0.1, 0.3, 0.2]]), torch.tensor([0, 2])
    target, ratio = transhp.selectivity(absorbed, coarse)
    assert target.tolist() == pytest.approx([0.2, 0.2])
    assert ratio.tolist() == pytest.approx([2.0, 2 / 3])
    measure = Levels(1, prompted=True)
    for i in range(2):  # one image at a time
        measure.update([torch.tensor([[3.0, 1, 2]])], [absorbed[i : i + 1]], coarse[i : i + 1, None])
    found = {name: float(value) for name, value in measure.compute().items()}
    assert found == pytest.approx({"coarse_top1": 50, "absorption": 0.2, "ratio": 4 / 3})
    two = Levels(2, prompted=False)
    two.update([torch.eye(2), torch.eye(3)[:2]], [], torch.tensor([[0, 0], [0, 1]]))
    assert {n: float(v) for n, v in two.compute().items()} == {
        "coarse_top1": 100,
        "coarse_top1_0": 50,
        "coarse_top1_1": 100,
    }


def test_loss_of_an_untrained_network_on_imagenet() -> None:
    expected = math.log(1000) + sum(w * math.log(m) for w, (_, m) in zip(WEIGHTS, LEVELS, strict=True))
    assert expected == pytest.approx(20.96, abs=0.01)
    network = ViT(224, 16, 1000, 384, 12, 6, levels=LEVELS, coarse="prompts", init_seed=0)
    module = TransHP(network, 1000, WEIGHTS)
    coarse = torch.stack([torch.arange(2) % m for _, m in LEVELS], 1)
    with torch.no_grad():
        loss = module.training_step((images(2, 224, 3), torch.tensor([1, 2]), coarse), 0)
    assert float(loss) == pytest.approx(expected, abs=0.4)


def test_total_loss_by_hand() -> None:
    fine, coarse = torch.tensor(1.0), [torch.tensor(2.0), torch.tensor(3.0)]
    assert float(transhp.total_loss(fine, coarse, [0.5, 0.1])) == pytest.approx(2.3)
    assert float(transhp.total_loss(fine, [], [])) == 1
    with pytest.raises(ValueError, match="argument 2 is longer"):
        transhp.total_loss(fine, coarse, [0.5])


def test_the_step_adds_what_the_parts_say() -> None:
    network = small(levels=((0, 2), (1, 5)))
    loud(network)
    x, y, five = batch()
    coarse = torch.cat([five % 2, five], 1)
    z, (first, second) = network.scored(x)
    smooth = partial(F.cross_entropy, label_smoothing=0.1)
    expected = smooth(z, y) + 0.5 * smooth(first, coarse[:, 0]) + 2 * smooth(second, coarse[:, 1])
    assert torch.allclose(TransHP(network, 10, [0.5, 2.0]).training_step((x, y, coarse), 0), expected)
    plain = small("none")
    assert torch.allclose(TransHP(plain, 10).training_step((x, y, coarse), 0), smooth(plain(x), y))


def test_no_prompts_is_one_linear_head_on_the_class_token_after_the_block() -> None:
    network = small("class_token")
    loud(network)
    seen: list[Tensor] = []
    network.blocks[1].register_forward_hook(lambda m, given, output: seen.append(output))
    _, (s,) = network.scored(images())
    norm, linear = network.coarse_heads["1"]  # type: ignore[misc]
    assert torch.allclose(s, linear(norm(seen[0][:, 0])))
    assert parameters(network) - parameters(small("none")) == 2 * 16 + 16 * 5 + 5


def test_arms_start_alike() -> None:
    """Same seed, same initial weights wherever two arms share a parameter."""
    starts = {coarse: small(coarse, seed=3).state_dict() for coarse in networks.COARSE}
    for coarse in ("prompts", "class_token"):
        assert all(torch.equal(starts[coarse][name], value) for name, value in starts["none"].items())
    assert not torch.equal(small("none", seed=4).state_dict()["head.weight"], starts["none"]["head.weight"])
    drawn = ViT(224, 16, 1000, 96, 2, 3, levels=[(0, 50)], coarse="prompts", init_seed=0)
    for name, p in drawn.named_parameters():
        if name.endswith("bias") and "patch_embed" not in name:
            assert float(p.abs().max()) == 0
        elif "norm" not in name:
            spread = 1 / math.sqrt(3 * 3 * 16 * 16) if "patch_embed" in name else 0.02
            assert float(p.detach().std()) == pytest.approx(spread, rel=0.15), name


def test_learning_rate_is_timms() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    theirs = CosineLRScheduler(optimizer, t_initial=300, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    for epoch in range(300):
        ours = 1e-3 * transhp.deit_cosine(Position(epoch, 7, 1251, 300))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(ours, rel=1e-9)
        theirs.step(epoch)  # as the released loop does, after the epoch


def test_weight_decay_is_on_matrices_alone() -> None:
    module = TransHP(small(), 10, [1.0])
    decayed, plain = module.trained()
    names = {id(p): n.removeprefix("network.") for n, p in module.named_parameters()}
    assert plain["weight_decay"] == 0.0
    apart = {names[id(p)] for p in plain["params"]}
    assert {"cls_token", "pos_embed", "head.bias", "norm.weight"} <= apart
    kept = {names[id(p)] for p in decayed["params"]}
    assert {"blocks.1.prompts", "blocks.1.prototypes", "head.weight", "patch_embed.weight"} <= kept
    assert apart | kept == set(names.values())
    assert not apart & kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coarse": "wrong"}, "expected one of prompts, class_token, none"),
        ({"levels": [(3, 5)]}, "from 0 to 2"),
        ({"levels": [(1, 5), (0, 2)]}, "in this order"),
    ],
)
def test_a_network_names_what_it_takes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)
    with pytest.raises(ValueError, match="no multiple"):
        ViT(9, 4, 10, 16, 2, 2)
    with pytest.raises(ValueError, match="no multiple"):
        ViT(8, 4, 10, 16, 2, 3)
    with pytest.raises(ValueError, match="weights has 2 numbers for the 1 levels"):
        TransHP(small(), 10, [1.0, 1.0])


def test_the_full_recipe_is_the_released_one(make_plan: Callable[..., Plan]) -> None:
    stages = make_plan("paper=transhp", "scale=full").stages
    method = stages["transhp"]
    assert [tuple(level) for level in method.module["network"]["levels"]] == LEVELS
    assert method.module["weights"] == WEIGHTS
    assert method.module["label_smoothing"] == 0.1
    assert method.trainer["max_epochs"] == 300
    assert method.data["batch_size"] == method.reference_batch == 1024
    assert method.module["optimizer"]["lr"] == 1e-3
    assert method.module["optimizer"]["weight_decay"] == 0.05
    source = method.data["source"]
    assert (source["auto_augment"], source["erasing"], source["repeats"]) == ("rand-m9-mstd0.5-inc1", 0.25, 3)
    assert stages["no_coarse"].module["weights"] == [0] * len(LEVELS)
    assert (method.module["network"]["drop_path"], source["interpolation"]) == (0.1, "bicubic")
    assert method.module["schedule"] == {
        "_target_": "modules.transhp.module.deit_cosine",
        "_partial_": True,
        **{"base": 1e-3, "final": 1e-5, "warmup": 1e-6, "warmup_epochs": 5},
    }
    assert stages["transhp_few"].data["source"]["fraction"] == 0.1
    cifar = make_plan("paper=transhp", "scale=full", "variant=cifar100").stages["transhp"]
    assert cifar.module["network"]["levels"] == [[8, 20]]
    for block in (10, 9, 8, 6):
        late = make_plan("paper=transhp", "scale=full", f"variant=from_block_{block}").stages
        assert list(late) == ["transhp"]
        assert [tuple(level) for level in late["transhp"].module["network"]["levels"]] == LEVELS[block:]
        assert late["transhp"].module["weights"] == WEIGHTS[block:]


@pytest.mark.parametrize("scale", ["full", "mini"])
def test_all_arms_have_the_same_budget(scale: str, make_plan: Callable[..., Plan]) -> None:
    """Same data, epochs, optimiser and network, up to what makes the arm."""
    stages = make_plan("paper=transhp", f"scale={scale}").stages
    for few in ("", "_few"):
        arms = [
            stages[f"{name}{few}"]
            for name in ("transhp", "baseline", "no_coarse", "no_prompts")
            if f"{name}{few}" in stages
        ]
        for arm in arms[1:]:
            assert (arm.data, arm.trainer) == (arms[0].data, arms[0].trainer)
            assert {**arm.module, "weights": 0, "network": 0} == {**arms[0].module, "weights": 0, "network": 0}
            assert {**arm.module["network"], "coarse": 0} == {**arms[0].module["network"], "coarse": 0}
