"""What every head computes, and what its parameters may be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from modules.robust_pbn.heads import (
    LinearRBF,
    NormalisedRBF,
    OriginalCBC,
    PIPNet,
    StableCBC,
    agreement,
    divide_by_effective,
)


def test_agreement_by_hand(hand: tuple[Tensor, Tensor, Tensor]) -> None:
    assert torch.allclose(agreement(*hand), torch.tensor([[0.74, 0.31]]), atol=1e-6)


def test_agreement_of_the_documented_example() -> None:
    """Two components, two classes; each class takes one component as there and the other as not there."""
    d = torch.tensor([[0.25, 1.0], [1.0, 0.0]])
    positive = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    negative = torch.tensor([[0.0, 0.5], [0.5, 0.0]])
    assert torch.allclose(agreement(d, positive, negative), torch.tensor([[0.125, 0.875], [1.0, 0.0]]))


@pytest.mark.parametrize("start", ["shallow", "deep"])
def test_stable_cbc_is_a_probability_for_any_detections_and_logits(start: str) -> None:
    head = StableCBC(7, 5, start)
    with torch.no_grad():
        head.logits.add_(5 * torch.randn_like(head.logits))
    positive, negative = head.reasoning()
    assert torch.allclose((positive + negative).sum(0), torch.ones(5))
    p = head(torch.rand(100, 7))
    assert float(p.min()) >= 0
    assert float(p.max()) <= 1
    assert torch.allclose(head(torch.ones(1, 7))[0], positive.sum(0), atol=1e-6)
    assert torch.allclose(head(torch.zeros(1, 7))[0], negative.sum(0), atol=1e-6)


def test_one_softmax_over_both_kinds_of_reasoning() -> None:
    """A constant on a concept's 2K logits changes nothing; one on its positive half does."""
    head, d = StableCBC(4, 3), torch.rand(6, 4)
    before = head(d)
    with torch.no_grad():
        head.logits[:, :, 1] += 3
    assert torch.allclose(head(d), before, atol=1e-6)
    with torch.no_grad():
        head.logits[0, :, 1] += 3
    assert not torch.allclose(head(d)[:, 1], before[:, 1], atol=1e-2)


def test_there_and_not_there_are_symmetric() -> None:
    d = torch.rand(5, 4)
    positive, negative = StableCBC(4, 3).reasoning()
    assert torch.allclose(agreement(1 - d, negative, positive), agreement(d, positive, negative), atol=1e-6)


def test_shallow_start_has_the_published_prior_and_requiredness() -> None:
    positive, negative = StableCBC(20, 20).reasoning()
    requiredness = positive / (positive + negative)
    assert float(requiredness.min()) >= 0.4 - 1e-6
    assert float(requiredness.max()) <= 0.6 + 1e-6
    prior = positive + negative  # a softmax of U[0, 1]
    assert float((prior.amax(0) / prior.amin(0)).max()) <= torch.e + 1e-4


def test_normalised_rbf_is_stable_cbc_without_negative_reasoning() -> None:
    rbf, cbc = NormalisedRBF(5, 3), StableCBC(5, 3)
    with torch.no_grad():
        cbc.logits[0] = rbf.logits
        cbc.logits[1] = -1e4
    d = torch.rand(8, 5)
    assert torch.allclose(rbf(d), cbc(d), atol=1e-6)
    assert torch.allclose(rbf(torch.ones(1, 5)), torch.ones(1, 3), atol=1e-6)


def test_explanations_of_the_original_cbc_are_not_unique() -> None:
    """Scaling what a class requires leaves its agreement; in stable CBC there is nothing to scale."""
    head, d = OriginalCBC(6, 3), torch.rand(9, 6)
    positive, negative = head.states()
    whole = agreement(d, *divide_by_effective(positive, negative))
    half = agreement(d, *divide_by_effective(0.5 * positive, 0.5 * negative))
    assert torch.allclose(whole, half, atol=1e-6)
    assert torch.allclose(whole, head(d), atol=1e-6)


def test_original_cbc_stays_a_distribution_over_three_states() -> None:
    head = OriginalCBC(6, 3)
    with torch.no_grad():
        head.sticks.add_(3 * torch.randn_like(head.sticks))
    head.constrain()
    positive, negative = head.states()
    assert float(positive.min()) >= 0
    assert float(negative.min()) >= 0
    assert float((positive + negative).max()) <= 1


def test_plain_and_pipnet_heads_are_linear() -> None:
    d = torch.rand(4, 6)
    linear, pip = LinearRBF(6, 3), PIPNet(6, 3)
    assert torch.allclose(linear(2 * d), 2 * linear(d))
    with torch.no_grad():
        pip.weight[0] = -1
    assert torch.allclose(pip(d), d[:, 1:] @ pip.weight[1:])
    assert linear.reasoning() is None
    assert pip.reasoning() is None


def test_released_heads_shrink_their_weights_to_zero() -> None:
    pip = PIPNet(2, 1, shrink=0.001)
    with torch.no_grad():
        pip.weight.copy_(torch.tensor([[0.5], [0.0004]]))
    pip.constrain()
    assert torch.allclose(pip.weight, torch.tensor([[0.499], [0.0]]))
    rbf = NormalisedRBF(2, 1)
    before = rbf.logits.clone()
    rbf.constrain()
    assert torch.equal(rbf.logits, before)


@pytest.mark.parametrize("head", [StableCBC, NormalisedRBF])
def test_an_unknown_start_is_named(head: type[StableCBC] | type[NormalisedRBF]) -> None:
    with pytest.raises(ValueError, match="start='middle': expected one of shallow, deep"):
        head(2, 2, "middle")
