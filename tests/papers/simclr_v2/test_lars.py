"""LARS by hand, scale-free, against lightly's where both say the same, and who is left out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modules.simclr_v2.lars import LARS


def stepped(w: Tensor, *gradients: Tensor, **options: float) -> Tensor:
    weight = nn.Parameter(w.clone())
    optimizer = LARS([weight], **options)  # type: ignore[arg-type]
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach()


def test_a_step_by_hand() -> None:
    """g = (0.3, 2.4), ratio 0.001 x 5 / 2.41868 = 0.00206725."""
    w = stepped(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0]), lr=1.0, weight_decay=0.1)
    assert torch.allclose(w, torch.tensor([2.99937983, 3.99503861]), atol=1e-6)


def test_the_rate_is_inside_the_momentum() -> None:
    """Second step at a tenth of the rate: the velocity keeps the first step's."""
    weight = nn.Parameter(torch.tensor([1.0, 0.0]))
    optimizer = LARS([weight], lr=1.0, momentum=0.9, trust=0.1)
    weight.grad = torch.tensor([2.0, 0.0])
    optimizer.step()
    assert torch.allclose(weight, torch.tensor([0.9, 0.0]))  # 0.1 x 1 / 2 x 2
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    assert torch.allclose(weight, torch.tensor([0.9 - 0.09 - 0.009, 0.0]))


def test_the_length_of_the_gradient_does_not_matter() -> None:
    w, g = torch.randn(5, 3), torch.randn(5, 3)
    expected = stepped(w, g, lr=0.5, weight_decay=0.0)
    assert torch.allclose(stepped(w, 1000 * g, lr=0.5, weight_decay=0.0), expected)
    assert torch.allclose(stepped(w, 3 * g, lr=0.5, weight_decay=0.3), stepped(w, g, lr=0.5, weight_decay=0.1))


def test_it_is_lightlys_where_gradient_and_weight_are_parallel() -> None:
    """Elsewhere lightly adds the norms of gradient and decay, SimCLR's code takes the norm of the sum."""
    reference = pytest.importorskip("lightly.utils.lars").LARS
    ours, theirs = (nn.Parameter(torch.tensor([[3.0, -4.0], [1.0, 2.0]])) for _ in range(2))
    options = {"lr": 0.7, "momentum": 0.9, "weight_decay": 0.01}
    optimizers = (LARS([ours], **options), reference([theirs], **options))
    for factor in (1.0, 0.2, 5.0):
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.grad = factor * weight.detach()
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_groups_that_are_not_adapted_have_plain_momentum() -> None:
    weights = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    groups = [{"params": weights[:1], "adapt": False, "weight_decay": 0.0}, {"params": weights[1:]}]
    optimizer = LARS(groups, lr=0.5, momentum=0.9, weight_decay=0.1)
    for weight in weights:
        weight.grad = torch.full((3,), 2.0)
    optimizer.step()
    optimizer.step()
    assert torch.allclose(weights[0], torch.full((3,), 1 - 1.0 - 1.9))
    assert float(weights[1].detach().min()) > 0.99


def test_zero_norms_have_the_ratio_one() -> None:
    assert torch.allclose(stepped(torch.zeros(2), torch.tensor([1.0, 2.0]), lr=0.5), torch.tensor([-0.5, -1.0]))
    w = torch.tensor([1.0, 2.0])
    assert torch.equal(stepped(w, torch.zeros(2), lr=0.5), w)


def test_parameters_without_a_gradient_stay() -> None:
    weight = nn.Parameter(torch.ones(2))
    assert LARS([weight], lr=1.0).step(lambda: 3) == 3
    assert torch.equal(weight, torch.ones(2))
