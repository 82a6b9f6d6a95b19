"""Multinomial logistic regression on standardised features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def fit_logistic(x: Tensor, y: Tensor, classes: int, penalty: float, iterations: int) -> tuple[Tensor, Tensor]:
    """Minimises mean cross-entropy + penalty / 2 |W|^2 by L-BFGS, on features with mean 0 and deviation 1.

    Args:
        x: features (N, D), as they are.
        y: labels (N,).
        classes: C.
        penalty: on the weights of the standardised features; biases are free.
        iterations: at most.

    Returns:
        (C, D) and (C,), for features as they are.
    """
    mean, deviation = x.mean(0), x.std(0).clamp(min=1e-6)
    z = (x - mean) / deviation
    with torch.enable_grad(), torch.inference_mode(False):
        z, y = z.clone(), y.clone()
        weight = torch.zeros(classes, x.shape[1], device=x.device, requires_grad=True)
        bias = torch.zeros(classes, device=x.device, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(F.linear(z, weight, bias), y) + penalty / 2 * weight.square().sum()
            loss.backward()
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]
    weight = weight.detach() / deviation
    return weight, bias.detach() - weight @ mean
