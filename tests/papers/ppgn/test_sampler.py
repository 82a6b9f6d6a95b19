"""The chain: step sizes, proportions, limit cases, and what it converges to where that is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from modules.ppgn.conditions import ClassCondition
from modules.ppgn.sampler import ChainNoise, Sampler, unit_mean, with_options


class Line:
    """States (B, d) that are their own images; R moves them towards `fixed` (or -s: the score of N(0, 1))."""

    def __init__(self, d: int, fixed: Tensor | None = None) -> None:
        self.shape = (d,)
        self.fixed = fixed

    def decode(self, state: Tensor) -> Tensor:
        return state

    def reconstruct(self, state: Tensor, x: Tensor) -> Tensor:
        return torch.zeros_like(state) if self.fixed is None else self.fixed.expand_as(state)

    def context(self, state: Tensor) -> None:
        return None


WEIGHTS = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.4, -1.0], [-0.2, 0.1, 0.6], [2.0, 1.0, -0.7]])
CONDITION = ClassCondition(lambda x: x @ WEIGHTS)
START = torch.tensor([[0.4, 1.0, 0.2, 0.7], [1.5, 0.1, 0.9, 0.3]])
TARGET = torch.tensor([2, 0])


def run(sampler: Sampler, noise: ChainNoise | None = None, high: float = 1e9, **options: Any) -> Tensor:
    fixed = torch.tensor([0.9, 0.2, 0.4, 0.1])
    return sampler.run(Line(4, fixed), CONDITION, START, TARGET, noise, high, **options)[0]


@pytest.mark.parametrize("epsilons", [{"e1": 1e-5}, {"e1": 3.0, "e2": 0.2}, {"e1": 0.0}, {"e1": 0.1, "e3": 0.5}])
def test_a_released_step_moves_every_chain_by_lr(epsilons: dict[str, float]) -> None:
    sampler = Sampler(steps=1, lr=0.7, lr_end=0.1, low=-1e9, **epsilons)
    moved = run(sampler, ChainNoise(0, [0, 1])) - START
    torch.testing.assert_close(moved.abs().mean(1), torch.full((2,), 0.7))


def test_released_epsilons_set_proportions_alone() -> None:
    first, second = (Sampler(e1=0.2 * k, e2=1.0 * k, e3=0.1 * k, lr=0.1, lr_end=0.01, steps=9) for k in (1, 37))
    torch.testing.assert_close(run(first, ChainNoise(0, [0, 1])), run(second, ChainNoise(0, [0, 1])))


def test_the_rate_goes_linearly_from_lr_to_lr_end() -> None:
    """Of five steps the last has a fifth of the way to go: the released loop's sixth pass, at lr_end, is not shown."""
    sampler = Sampler(lr=1.0, lr_end=0.5, steps=5)
    assert [sampler.rate(step) for step in range(5)] == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.6])
    assert Sampler(lr=0.3, lr_end=0.1, steps=1).rate(0) == 0.3


def test_a_stable_step_by_hand() -> None:
    """s + lr (e1 (R(s) - s) + g / mean|g|)."""
    state = START.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(CONDITION(state, TARGET).sum(), state)
    prior = torch.tensor([0.9, 0.2, 0.4, 0.1]) - START
    expected = START + 0.05 * (0.3 * prior + gradient / gradient.abs().mean(1, keepdim=True))
    sampler = Sampler(rule="stable", e1=0.3, e3=0.0, lr=0.05, lr_end=0.05, steps=1, low=-1e9)
    torch.testing.assert_close(run(sampler), expected)


def test_without_prior_and_noise_it_is_activation_maximisation() -> None:
    """DGN-AM: nothing but the class's gradient; the prior is not evaluated."""

    class NoPrior(Line):
        def reconstruct(self, state: Tensor, x: Tensor) -> Tensor:
            raise AssertionError("evaluated")

    sampler = Sampler(rule="plain", e1=0.0, e2=0.1, e3=0.0, steps=1, low=-1e9)
    end, _ = sampler.run(NoPrior(4), CONDITION, START, TARGET)
    state = START.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(CONDITION(state, TARGET).sum(), state)
    torch.testing.assert_close(end, START + 0.1 * gradient)


def test_without_a_condition_chains_go_to_the_fixed_point() -> None:
    fixed = torch.tensor([0.9, 0.2, 0.4, 0.1])
    sampler = Sampler(rule="plain", e1=0.5, e2=0.0, e3=0.0, steps=40)
    end, _ = sampler.run(Line(4, fixed), CONDITION, START, TARGET)
    torch.testing.assert_close(end, fixed.expand_as(end))


@pytest.mark.parametrize("rule", ["plain", "released", "stable"])
def test_at_the_fixed_point_the_prior_is_nothing(rule: str) -> None:
    fixed = START[:1]
    sampler = Sampler(rule=rule, e1=1.0, e2=0.0, e3=0.0, steps=3)
    end, _ = sampler.run(Line(4, fixed), None, fixed.clone(), TARGET[:1])
    torch.testing.assert_close(end, fixed)


def test_all_entries_stay_within_the_clip() -> None:
    top = torch.tensor([0.5, 1.0, 2.0, 0.1])
    for rule in ("plain", "released", "stable"):
        end = run(Sampler(rule=rule, e1=0.0, e2=5.0, lr=3.0, steps=6), high=30.0)
        assert bool(((end >= 0) & (end <= 30)).all())
        end = run(Sampler(rule=rule, e1=0.0, e2=5.0, lr=3.0, steps=6), high=top)  # type: ignore[arg-type]
        assert bool(((end >= 0) & (end <= top)).all())


def test_langevin_keeps_the_variance_where_the_steps_fit_and_shrinks_it_where_not() -> None:
    """s <- (1 - e1) s + e3 n has variance e3^2 / (2 e1 - e1^2): 1 for e1 = e3^2 / 2 and small steps."""
    e3 = 0.2
    source = torch.Generator().manual_seed(0)
    start = torch.randn(8, 4000, generator=source)
    variances = []
    for e1 in (e3**2 / 2, 0.5):
        sampler = Sampler(rule="plain", e1=e1, e2=0.0, e3=e3, steps=100, low=-1e9)
        end, _ = sampler.run(Line(4000), None, start, TARGET, ChainNoise(1, list(range(8))), 1e9)
        variances.append(float(end.var()))
    assert variances[0] == pytest.approx(1.0, abs=0.05)
    assert variances[1] == pytest.approx(e3**2 / 0.75, rel=0.05)


def test_states_on_the_way_are_kept() -> None:
    sampler = Sampler(rule="plain", e1=0.5, e2=0.0, e3=0.0, steps=4)
    end, (first, second, last) = sampler.run(Line(4, START[:1]), None, START, TARGET, keep=[0, 1, 4])
    assert torch.equal(first, START)
    torch.testing.assert_close(second, (START + START[:1]) / 2)
    assert torch.equal(last, end)


def test_a_chains_noise_does_not_depend_on_its_neighbours() -> None:
    like = torch.zeros(3, 5)
    all_three, alone = ChainNoise(4, [7, 8, 9]), ChainNoise(4, [8])
    for _ in range(2):
        assert torch.equal(all_three.draw(like)[1], alone.draw(like[:1])[0])
    assert not torch.equal(ChainNoise(5, [8]).draw(like[:1]), ChainNoise(4, [8]).draw(like[:1]))


def test_a_direction_of_nothing_stays_nothing() -> None:
    assert torch.equal(unit_mean(torch.zeros(2, 3)), torch.zeros(2, 3))
    torch.testing.assert_close(unit_mean(torch.tensor([[2.0, -6.0]])), torch.tensor([[0.5, -1.5]]))


def test_the_sampler_works_in_inference_mode() -> None:
    with torch.inference_mode():
        end = run(Sampler(rule="stable", steps=2, lr=0.1))
    assert not torch.equal(end, START)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="rule='fast': expected one of plain, released, stable"):
        Sampler(rule="fast")
    with pytest.raises(ValueError, match="steps=0: expected 1 or more"):
        Sampler(steps=0)
    with pytest.raises(ValueError, match="e1=-1: expected a number from 0"):
        Sampler(e1=-1)
    with pytest.raises(ValueError, match="unexpected keyword argument 'e5'"):
        with_options(Sampler(), {"e5": 1.0})


def test_defaults_are_the_released_script_for_classes() -> None:
    sampler = Sampler()
    assert (sampler.e1, sampler.e2, sampler.e3, sampler.lr, sampler.steps) == (1e-5, 1.0, 1e-17, 1.0, 200)
