"""Gradients of logit and loss: closed forms of linear models, an independent reference, and what they leave alone."""

from __future__ import annotations

import torch
from captum.attr import Saliency
from torch import nn

from modules.common.attributions import logit_gradient, loss_gradient


def linear(classes: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))


def deep() -> nn.Sequential:
    layers = [nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(80, 4)]
    return nn.Sequential(*layers).eval()


def test_of_a_linear_model_the_logits_gradient_is_its_row() -> None:
    net, x, t = linear(), torch.randn(7, 1, 3, 4), torch.randint(3, (7,))
    assert torch.allclose(logit_gradient(net, x, t).flatten(1), net[1].weight[t])


def test_of_a_linear_model_the_losses_gradient_weighs_rows_by_errors() -> None:
    """sum_c (p_c - 1{c = t}) W_c."""
    net, x, t = linear(), torch.randn(7, 1, 3, 4), torch.randint(3, (7,))
    errors = net(x).softmax(1) - nn.functional.one_hot(t, 3)
    assert torch.allclose(loss_gradient(net, x, t).flatten(1), errors @ net[1].weight, atol=1e-6)


def test_both_kinds_rank_alike_for_two_opposite_logits_and_not_in_general() -> None:
    net, x, t = linear(2), torch.randn(7, 1, 3, 4), torch.randint(2, (7,))
    pairs = []
    for opposite in (False, True):
        if opposite:
            with torch.no_grad():
                net[1].weight[1] = -net[1].weight[0]
        orders = [of(net, x, t).abs().flatten(1).argsort(1) for of in (logit_gradient, loss_gradient)]
        pairs.append(torch.equal(*orders))
    assert pairs == [False, True]


def test_one_inputs_map_depends_on_it_alone_and_nothing_is_touched() -> None:
    net, x, t = deep(), torch.randn(6, 2, 4, 4), torch.randint(4, (6,))
    with torch.inference_mode():
        whole = logit_gradient(net, x.clone(), t)
    alone = torch.cat([logit_gradient(net, x[i : i + 1], t[i : i + 1]) for i in range(6)])
    assert torch.allclose(whole, alone, atol=1e-6)
    assert not whole.requires_grad
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not net[1].training


def test_frozen_weights_do_not_stop_the_gradient_of_the_input() -> None:
    net = deep().requires_grad_(False)
    assert bool(loss_gradient(net, torch.randn(3, 2, 4, 4), torch.zeros(3, dtype=torch.long)).any())


def test_against_captum() -> None:
    net, x, t = deep(), torch.randn(6, 2, 4, 4), torch.randint(4, (6,))
    expected = Saliency(net).attribute(x.clone().requires_grad_(), target=t)
    assert torch.allclose(logit_gradient(net, x, t).abs(), expected, atol=1e-6)
