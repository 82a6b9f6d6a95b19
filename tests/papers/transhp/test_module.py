"""The losses of TransHP by hand, and which weights they reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.transhp.module import TransHP, coarse_loss, total_loss
from modules.transhp.networks import coarse_scores
from tests.papers.transhp.helpers import (
    LEVELS,
    WEIGHTS,
    make_batch,
    make_images,
    mask_prompts,
    only_prompting,
    published_network,
    randomise,
    size,
    small_network,
)


def test_coarse_loss_by_hand() -> None:
    s, y = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    assert float(coarse_loss(s, y)) == pytest.approx(0.3133, abs=1e-4)
    assert float(coarse_loss(s, y, 0.1)) == pytest.approx(0.3633, abs=1e-4)


@pytest.mark.parametrize("m", [20, 21])
def test_prototypes_of_zero_know_nothing(m: int) -> None:
    s = coarse_scores(torch.randn(4, m, 8), torch.zeros(m, 8))
    for smoothing in (0.0, 0.1):
        assert float(coarse_loss(s, torch.arange(4), smoothing)) == pytest.approx(math.log(m), abs=1e-6)


def gradients(module: TransHP) -> dict[str, Tensor | None]:
    module.zero_grad()
    module.training_step(make_batch(), 0).backward()
    return {name.removeprefix("network."): p.grad for name, p in module.named_parameters()}


def test_without_coarse_labels_prompts_learn_and_prototypes_do_not() -> None:
    actual = gradients(TransHP(small_network(), 10, [0.0]))
    assert size(actual["blocks.1.prototypes"]) == 0
    assert size(actual["blocks.1.prompts"]) > 0
    actual = gradients(TransHP(small_network(), 10, [1.0]))
    assert size(actual["blocks.1.prototypes"]) > 0


def test_the_coarse_loss_trains_nothing_above_its_block() -> None:
    network = small_network()
    x, _, coarse = make_batch()
    coarse_loss(network.score(x)[1][0], coarse[:, 0]).backward()
    above = ("blocks.2.", "norm.", "head.")
    for name, p in network.named_parameters():
        assert (size(p.grad) == 0) == name.startswith(above), name


def test_fine_loss_reaches_the_prompts_through_attention_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    randomise(network)
    x, y, _ = make_batch()
    F.cross_entropy(network.score(x)[0], y).backward()
    assert size(only_prompting(network).prompts.grad) > 0
    network.zero_grad()
    mask_prompts(monkeypatch, 5)
    F.cross_entropy(network.score(x)[0], y).backward()
    assert size(only_prompting(network).prompts.grad) == 0


def test_no_label_reaches_the_prediction() -> None:
    """All prompts are there in training and in testing: other labels, same logits and scores."""
    module = TransHP(small_network(drop_path=0.0), 10, [1.0])
    seen: list[Tensor] = []
    module.network.head.register_forward_hook(lambda m, given, output: seen.append(output.detach()))
    x, y, coarse = make_batch()
    module.training_step((x, y, coarse), 0)
    module.training_step((x, y.flip(0), (coarse + 1) % 5), 0)
    module.test_step((x, y, coarse), 0)
    module.test_step((x, y.flip(0), (coarse + 1) % 5), 0)
    *trained, first, first_masked, second, second_masked = seen
    assert all(torch.allclose(z, first, atol=1e-6) for z in (*trained, second))
    assert torch.allclose(first_masked, second_masked, atol=1e-6)


def test_the_test_says_how_accurate_the_network_is_without_its_prompts(
    logged: Callable[..., dict[str, float]],
) -> None:
    """Its head tells apart whether prompts were there: class 0 without them, class 1 with them."""
    module = TransHP(small_network(), 10, [1.0]).eval()
    randomise(module.network)
    network, head = module.network, module.network.head
    x = make_images(60)
    features: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda m, given: features.append(given[0].detach()))
    network(x)
    network.forward_masked(x)
    hook.remove()
    prompted, masked = features
    with torch.no_grad():
        apart, middle = (masked - prompted).mean(0), (masked + prompted).mean(0) / 2
        head.weight.zero_()
        head.bias.fill_(-1e3)
        for label, sign in enumerate((1, -1)):
            head.weight[label] = sign * apart
            head.bias[label] = -sign * apart @ middle
    plain = small_network("none").eval()
    plain.load_state_dict({n: p for n, p in network.state_dict().items() if n in plain.state_dict()})
    y = torch.zeros(60, dtype=torch.long)
    coarse = y[:, None]

    metrics = logged(module, (x[:40], y[:40], coarse[:40]), (x[40:], y[40:], coarse[40:]))

    without, within = (100 * float((net(x).argmax(-1) == 0).float().mean()) for net in (plain, network))
    assert without - within > 50
    assert (metrics["test/masked_top1"], metrics["test/top1"]) == pytest.approx((without, within))


def test_arms_without_prompts_have_none_to_mask(logged: Callable[..., dict[str, float]]) -> None:
    for coarse, weights in (("class_token", [1.0]), ("none", [])):
        metrics = logged(TransHP(small_network(coarse), 10, weights).eval(), make_batch())
        assert "test/masked_top1" not in metrics


def test_loss_of_an_untrained_network_on_imagenet() -> None:
    expected = math.log(1000) + sum(w * math.log(m) for w, (_, m) in zip(WEIGHTS, LEVELS, strict=True))
    assert expected == pytest.approx(20.96, abs=0.01)
    coarse = torch.stack([torch.arange(2) % m for _, m in LEVELS], 1)
    losses = []
    for seed in range(4):  # scores are not quite 0: one network's loss lies up to half a unit beside
        torch.manual_seed(seed)
        module = TransHP(published_network("small", LEVELS, "prompts"), 1000, WEIGHTS)
        with torch.no_grad():
            loss = module.training_step((make_images(2, 224, 3), torch.tensor([1, 2]), coarse), 0)
        losses.append(float(loss))
    assert sum(losses) / 4 == pytest.approx(expected, abs=0.4)


def test_total_loss_by_hand() -> None:
    fine, coarse = torch.tensor(1.0), [torch.tensor(2.0), torch.tensor(3.0)]
    assert float(total_loss(fine, coarse, [0.5, 0.1])) == pytest.approx(2.3)
    assert float(total_loss(fine, [], [])) == 1
    with pytest.raises(ValueError, match="argument 2 is longer"):
        total_loss(fine, coarse, [0.5])


def test_the_step_adds_what_the_parts_say() -> None:
    network = small_network(levels=((0, 2), (1, 5)))
    randomise(network)
    x, y, five = make_batch()
    coarse = torch.cat([five % 2, five], 1)
    z, (first, second) = network.score(x)
    smooth = partial(F.cross_entropy, label_smoothing=0.1)
    expected = smooth(z, y) + 0.5 * smooth(first, coarse[:, 0]) + 2 * smooth(second, coarse[:, 1])
    assert torch.allclose(TransHP(network, 10, [0.5, 2.0]).training_step((x, y, coarse), 0), expected)
    plain = small_network("none")
    assert torch.allclose(TransHP(plain, 10).training_step((x, y, coarse), 0), smooth(plain(x), y))


def test_weight_decay_is_on_matrices_alone() -> None:
    module = TransHP(small_network(), 10, [1.0])
    decayed, plain = module.trained()
    names = {id(p): n.removeprefix("network.") for n, p in module.named_parameters()}
    assert plain["weight_decay"] == 0.0
    apart = {names[id(p)] for p in plain["params"]}
    assert {"cls_token", "pos_embed", "head.bias", "norm.weight"} <= apart
    kept = {names[id(p)] for p in decayed["params"]}
    assert {"blocks.1.prompts", "blocks.1.prototypes", "head.weight", "patch_embed.weight"} <= kept
    assert apart | kept == set(names.values())
    assert not apart & kept
