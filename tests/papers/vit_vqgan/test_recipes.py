"""The recipes: what the arms of a comparison share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.common.errors import InputError
from experiments.running import training
from experiments.running.plan import Plan
from modules.common.module import StageModule


def test_arms_of_mini_differ_only_in_their_lookup_and_its_best_rate(make_plan: Callable[..., Plan]) -> None:
    mini = make_plan("paper=vit_vqgan", "scale=mini").stages
    lookups = {"lookup_dim", "normalise", "init"}

    def differences(arm: str) -> set[str]:
        paper = mini["tokenizer"].module
        other = mini[arm].module
        changed = {k for k in other if other[k] != paper[k]}
        assert changed - {"optimizer"} == {"quantizer"}
        assert {**other["optimizer"], "lr": None} == {**paper["optimizer"], "lr": None}
        return {k for k in other["quantizer"] if other["quantizer"][k] != paper["quantizer"].get(k)}

    restarts = {"vanilla_restarts": {"_target_", "decay", "threshold"}}
    for name in ("vanilla", "vanilla_normal", "vanilla_restarts", "low_dim", "low_dim_uniform", "l2_only"):
        paper, arm = mini["tokenizer"], mini[name]
        assert differences(name) <= lookups | restarts.get(name, set())
        assert (arm.data, arm.trainer) == (paper.data, paper.trainer)
    for name, only in (("low_dim", "normalise"), ("l2_only", "lookup_dim")):  # one thing at a time
        assert differences(name) == {only}
    for one, other in (("vim_unconditional", "vim_vanilla"), ("probe", "probe_vanilla")):
        assert mini[one].module == mini[other].module
        assert (mini[one].data, mini[one].trainer) == (mini[other].data, mini[other].trainer)


TOKENIZERS = ("tokenizer", "vanilla", "vanilla_normal", "vanilla_restarts", "low_dim", "low_dim_uniform", "l2_only")
TOKENIZERS += ("gan_late",)


@pytest.fixture
def start(
    make_plan: Callable[..., Plan], extractor: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., StageModule]:
    """A stage's module as its training begins, over a small extractor and untrained predecessors."""

    def load(plan: Plan, name: str) -> Any:
        return extractor if name == "features" else training.construct(plan, plan.stages[name])

    plans = {seed: make_plan("paper=vit_vqgan", "scale=mini", seed=seed) for seed in (3, 4)}

    def run(name: str, seed: int = 3) -> StageModule:
        return training.construct(plans[seed], plans[seed].stages[name])

    monkeypatch.setattr(training, "load", load)
    return run


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_tokenizers_start_alike_whatever_their_lookup(start: Callable[..., Any]) -> None:
    arms = {name: start(name) for name in TOKENIZERS}
    first = weights(arms["tokenizer"].autoencoder)
    assert all(torch.equal(weights(arm.autoencoder), first) for arm in arms.values())
    assert torch.equal(weights(arms["low_dim"].quantizer), weights(arms["tokenizer"].quantizer))
    assert torch.equal(weights(arms["vanilla_normal"].quantizer), weights(arms["l2_only"].quantizer))
    assert not torch.equal(weights(start("tokenizer", seed=4).autoencoder), first)


@pytest.mark.parametrize(("one", "other"), [("vim_unconditional", "vim_vanilla"), ("probe", "probe_vanilla")])
def test_what_follows_the_tokenizers_starts_alike(one: str, other: str, start: Callable[..., Any]) -> None:
    assert torch.equal(weights(start(one)), weights(start(other)))
    assert not torch.equal(weights(start(one)), weights(start(one, seed=4)))


def test_a_critic_without_a_discriminator_is_named(make_plan: Callable[..., Plan]) -> None:
    with pytest.raises(InputError, match="Critic needs discriminator"):
        training.check_plan(make_plan("paper=vit_vqgan", "~stages.gan_late.module.critic.discriminator"))
