"""Two networks against each other: the critic's losses and its gradient penalty.

Nothing here knows of SPARSE. Means over a batch that several processes share are `shared_mean`s.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from modules.common.distributed import world_size
from modules.common.precision import at_least_single


def shared_mean(values: Tensor, count: int) -> Tensor:
    """The mean over `count` samples of all processes, as each of them adds to it; their average is the mean.

    Where one process has the whole batch, the plain mean. (b,) -> ().
    """
    return values.sum() * (world_size() / count)


def patch_mean(scores: Tensor) -> Tensor:
    """(b, ...) -> (b,)."""
    return at_least_single(scores).flatten(1).mean(1)


def critic_loss(real: Tensor, fake: Tensor, count: int) -> Tensor:
    """-E[D(real)] + E[D(fake)] of a Wasserstein critic's scores (b, ...); the mean over an image's patches first."""
    return shared_mean(patch_mean(fake) - patch_mean(real), count)


def generator_loss(fake: Tensor, count: int) -> Tensor:
    """-E[D(fake)] from the critic's scores (b, ...)."""
    return -shared_mean(patch_mean(fake), count)


def between(real: Tensor, fake: Tensor, epsilon: Tensor) -> Tensor:
    """Points on the lines between pairs of samples: epsilon real + (1 - epsilon) fake, epsilon (b,) one for each."""
    epsilon = epsilon.view(-1, *[1] * (real.ndim - 1))
    return epsilon * real + (1 - epsilon) * fake


def gradient_penalty(scores: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """(|dD(x)/dx| - 1)^2 of each point, (b,), in fp32 and differentiable; of patches, the gradient of their sum.

    Args:
        scores: the critic, samples (b, ...) -> scores (b, ...).
        points: where to ask, (b, ...); no gradient goes back to what they were made of.
    """
    with torch.autocast(points.device.type, enabled=False):
        x = at_least_single(points.detach()).requires_grad_()
        (gradient,) = torch.autograd.grad(scores(x).sum(), x, create_graph=True)
    return (gradient.flatten(1).norm(2, dim=1) - 1).square()
