"""How far the batch statistics of images are from those that a network's batch norms have kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modules.common.distributed import summed, world_size


def batch_norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    """Every BatchNorm2d, in the order they are defined. Raises ValueError if there is none, or one keeps nothing."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not layers or any(layer.running_var is None for layer in layers):
        raise ValueError("the squeezed network needs batch norms that keep running statistics")
    return layers


def watch(network: nn.Module, layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The network's output for x, and what each of the layers was given on the way, in the order of `layers`."""
    inputs: dict[nn.Module, Tensor] = {}

    def keep(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        inputs[layer] = given[0]

    handles = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        output = network(x)
    finally:
        for handle in handles:
            handle.remove()
    return output, [inputs[layer] for layer in layers]


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel over the global batch, float32. (B, C, H, W) -> (C,), (C,)."""
    x = x.float()
    if world_size() == 1:
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        return mean, variance

    count = summed(torch.tensor(float(x.numel() / x.shape[1]), device=x.device))
    mean = summed(x.sum((0, 2, 3))) / count
    variance = summed((x - mean.view(1, -1, 1, 1)).square().sum((0, 2, 3))) / count
    return mean, variance


def statistics_loss(inputs: Sequence[Tensor], layers: Sequence[nn.BatchNorm2d], first: float = 10.0) -> Tensor:
    """R_BN = sum_l w_l (||var_l - RV_l||_2 + ||mean_l - RM_l||_2), w_1 = `first` and 1 for the others; not squared.

    Args:
        inputs: what each layer was given, (B, C_l, H_l, W_l).
        layers: with the running statistics RM_l and RV_l, (C_l,).
        first: weight of the first layer.
    """
    terms = []
    for x, layer in zip(inputs, layers, strict=True):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        mean, variance = batch_statistics(x)
        terms.append((variance - layer.running_var).norm() + (mean - layer.running_mean).norm())
    return first * terms[0] + sum(terms[1:], torch.zeros_like(terms[0]))
