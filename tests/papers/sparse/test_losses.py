"""The supervised loss against values by hand, limits, and whom its terms teach."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from modules.sparse.losses import (
    Supervision,
    class_loss,
    entropy_loss,
    kl_divergence,
    mixup_loss,
    mutual_loss,
    prototype_loss,
    supervised_terms,
)

SURE = torch.tensor([[100.0, 0.0], [0.0, 100.0]])
BOTH = torch.tensor([0, 1])


def test_prototypes_of_two_sure_samples() -> None:
    assert float(prototype_loss(SURE, BOTH, 1.0)) == pytest.approx(math.log(1 + math.exp(-2)))
    assert float(prototype_loss(torch.zeros(2, 2), BOTH, 1.0)) == pytest.approx(math.log(2))


def test_the_prototype_of_a_class_that_is_absent_is_zero() -> None:
    logits = torch.tensor([[100.0, 0.0, 0.0]])
    expected = -math.log(1 / (1 + 2 * math.exp(-1)))  # squared distances 0, 1, 1
    assert float(prototype_loss(logits, torch.tensor([0]), 1.0)) == pytest.approx(expected)


def test_prototypes_have_a_gradient() -> None:
    """Two samples of one class: each is pulled to a mean that moves with it."""
    logits = torch.tensor([[1.0, 0.0], [0.3, 0.0], [0.0, 1.0]], requires_grad=True)
    y = torch.tensor([0, 0, 1])
    (gradient,) = torch.autograd.grad(prototype_loss(logits, y, 1.0), logits)
    p = logits.softmax(1)
    means = torch.stack([p[:2].mean(0), p[2]]).detach()
    (without,) = torch.autograd.grad(F.cross_entropy(-(p[:, None] - means).square().sum(2), y), logits)
    assert not torch.allclose(gradient, without, atol=1e-3)


def test_temperature_divides_logits() -> None:
    logits = torch.randn(6, 3)
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.equal(prototype_loss(logits, y, 2.0), prototype_loss(logits / 2, y, 1.0))


def test_networks_that_agree_have_cross_entropies_alone() -> None:
    logits = torch.randn(5, 4)
    y = torch.tensor([0, 1, 2, 3, 0])
    assert float(mutual_loss([logits] * 3, y, Supervision())) == pytest.approx(3 * float(F.cross_entropy(logits, y)))


def test_both_directions_of_the_mutual_loss() -> None:
    logits = [torch.randn(5, 4) for _ in range(3)]
    y = torch.tensor([0, 1, 2, 3, 0])
    p = [(one / 2).softmax(1).numpy() for one in logits]
    expected = {"mean_to_network": 0.0, "network_to_mean": 0.0}
    for m in range(3):
        mean = sum(p[n] for n in range(3) if n != m) / 2
        ce = float(F.cross_entropy(logits[m], y))
        expected["mean_to_network"] += ce + 0.5 * sum((mean * (torch.tensor(mean / p[m])).log().numpy()).flatten()) / 5
        expected["network_to_mean"] += ce + 0.5 * sum((p[m] * (torch.tensor(p[m] / mean)).log().numpy()).flatten()) / 5
    for direction, value in expected.items():
        assert float(mutual_loss(logits, y, Supervision(direction=direction))) == pytest.approx(value, rel=1e-5)


def test_the_coded_mutual_loss_teaches_nothing() -> None:
    logits = [torch.randn(4, 3, requires_grad=True) for _ in range(3)]
    y = torch.tensor([0, 1, 2, 0])
    assert mutual_loss(logits, y, Supervision()).requires_grad
    assert not mutual_loss(logits, y, Supervision(mutual_gradient=False)).requires_grad


def test_entropy() -> None:
    assert float(entropy_loss(torch.zeros(3, 8))) == pytest.approx(math.log(8))
    assert float(entropy_loss(SURE)) == pytest.approx(0, abs=1e-6)


def test_divergence_is_zero_for_equals_alone() -> None:
    p, q = (torch.randn(4, 3).log_softmax(1) for _ in range(2))
    assert float(kl_divergence(p, p)) == 0
    assert float(kl_divergence(p, q)) == pytest.approx(float(F.kl_div(q, p, log_target=True, reduction="batchmean")))


def test_images_that_are_not_mixed() -> None:
    logits, y, order = torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), torch.tensor([3, 2, 1, 0])
    whole = mixup_loss(logits, y, order, torch.tensor(1.0))
    assert float(whole) == pytest.approx(float(F.cross_entropy(logits, y)))
    soft = 0.3 * F.one_hot(y, 3) + 0.7 * F.one_hot(y[order], 3)
    part = mixup_loss(logits, y, order, torch.tensor(0.3))
    assert float(part) == pytest.approx(float(F.cross_entropy(logits, soft)))


@pytest.mark.parametrize("classes", [2, 8])
def test_both_class_losses_at_logits_of_zero(classes: int) -> None:
    logits, y = torch.zeros(3, classes), torch.zeros(3, dtype=torch.long)
    assert class_loss(logits, y, "binary").tolist() == pytest.approx([classes * math.log(2)] * 3)
    assert class_loss(logits, y, "softmax").tolist() == pytest.approx([math.log(classes)] * 3)


def test_only_the_mutual_term_couples_the_networks() -> None:
    """So one backward pass of the sum gives each network the gradient of its own loss."""
    y, order = torch.tensor([0, 1, 2, 0]), torch.tensor([3, 2, 1, 0])
    names = ("tail", "critic", "classifier")
    clean, mixed = ({name: torch.randn(4, 3, requires_grad=True) for name in names} for _ in range(2))
    rules = Supervision()
    terms = supervised_terms(clean, mixed, y, order, torch.tensor(0.3), rules)
    (ours,) = torch.autograd.grad(sum(terms.values()), clean["critic"], retain_graph=True)
    own = prototype_loss(clean["critic"], y, 2.0) + 0.01 * entropy_loss(clean["critic"]) + terms["mutual"]
    (theirs,) = torch.autograd.grad(own, clean["critic"])
    assert torch.allclose(ours, theirs)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="direction='both': expected one of mean_to_network"):
        Supervision(direction="both")
    with pytest.raises(ValueError, match="temperature=0"):
        Supervision(temperature=0)
