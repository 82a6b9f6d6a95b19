"""Plain pseudo-labels: SPARSE's kept images and labels, learnt from as they are."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modules.sparse.module import Sparse
from modules.sparse.plain import PlainPseudoLabels, pseudo_label_terms

Make = Callable[..., Sparse]


def moved(network: nn.Module, before: dict[str, Tensor]) -> set[str]:
    """The parts of a network that have other weights than before."""
    return {name.split(".")[0] for name, p in network.named_parameters() if not torch.equal(p, before[name])}


def test_terms_by_hand() -> None:
    """Two of four kept images are this process's: ln 3 each where all logits are equal, ln(1 + 2/e) where one is 1."""
    equal = torch.zeros(2, 3)
    one = torch.eye(3)[:2]
    terms = pseudo_label_terms({"tail": equal, "critic": one}, torch.tensor([0, 1]), 4, "softmax")
    assert float(terms["tail"]) == pytest.approx(2 * math.log(3) / 4)
    assert float(terms["critic"]) == pytest.approx(2 * math.log(1 + 2 / math.e) / 4)


def test_a_step_teaches_all_three_networks_the_pseudo_labels_of_the_images_themselves(
    make_sparse: Make, unlabelled: Any
) -> None:
    """One step each, as SPARSE takes; G's decoder and D's patches, which serve translations alone, stay."""
    module = make_sparse(kind=PlainPseudoLabels)
    before = {name: copy.deepcopy(dict(network.named_parameters())) for name, network in module.networks.items()}
    torch.manual_seed(5)
    kept = copy.deepcopy(module).pseudo_labelled(unlabelled)
    torch.manual_seed(5)
    module.training_step(unlabelled, 0)
    assert moved(module.generator, before["generator"]) == {"first_plain", "bottleneck", "tail"}
    assert moved(module.discriminator, before["discriminator"]) == {"body", "category"}
    assert moved(module.classifier, before["classifier"])
    right = 100 * float((kept.labels == kept.truth).float().mean())
    assert 0 < right < 100
    assert float(module._sums["pseudo_top1"]) / kept.count == pytest.approx(right)

    same = make_sparse(kind=PlainPseudoLabels)
    loss = F.cross_entropy(same.discriminator.classify(kept.u), kept.labels)
    expected = torch.autograd.grad(loss, list(same.discriminator.category.parameters()))
    for gradient, p in zip(expected, module.discriminator.category.parameters(), strict=True):
        assert p.grad is not None
        assert torch.allclose(p.grad, gradient, atol=1e-6)


def test_kept_images_are_sparses_own(make_sparse: Make, unlabelled: Any) -> None:
    kept = []
    for kind in (Sparse, PlainPseudoLabels):
        torch.manual_seed(2)
        kept.append(make_sparse(kind=kind).pseudo_labelled(unlabelled))
    assert torch.equal(kept[0].u, kept[1].u)
    assert torch.equal(kept[0].labels, kept[1].labels)


def test_labelled_steps_are_sparses_own(make_sparse: Make, labelled: Any) -> None:
    states = []
    for kind in (Sparse, PlainPseudoLabels):
        module = make_sparse(kind=kind)
        torch.manual_seed(7)
        module.training_step(labelled, 0)
        states.append(module.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
