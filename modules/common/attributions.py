"""Attributions: which coordinates of an input a network's output depends on.

Each is a function of a network, inputs (B, ...) and targets (B,) that gives a signed map of the inputs' shape; with the
network bound it is a function of inputs and targets. Inputs are as the network sees them. Lower precision is for
training: maps are made in fp32. Nothing is attached to a graph, weights get no gradient, and layers keep their mode
(batch norms belong in evaluation mode, where one input's map does not depend on the others).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attribution(Protocol):
    def __call__(self, network: nn.Module, x: Tensor, targets: Tensor) -> Tensor: ...


def logit_gradient(network: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    """d f_t / d x, of the logit of each input's target (Simonyan et al. 2013): (B, ...)."""
    return _gradient(lambda p, t: network(p).float().gather(1, t[:, None]).sum(), x, targets)


def loss_gradient(network: nn.Module, x: Tensor, targets: Tensor) -> Tensor:
    """d CE(f(x), t) / d x = sum_c (p_c - 1{c = t}) d f_c / d x: (B, ...)."""
    return _gradient(lambda p, t: F.cross_entropy(network(p).float(), t, reduction="sum"), x, targets)


def _gradient(value: Callable[[Tensor, Tensor], Tensor], x: Tensor, targets: Tensor) -> Tensor:
    """Of a sum over inputs, each of whose terms depends on one input alone; works within inference_mode."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(x.device.type, enabled=False),
    ):
        point = x.detach().float().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(value(point, targets.clone()), point)
    return gradient
