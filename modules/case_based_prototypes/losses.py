"""The four terms of the prototype network's loss (arXiv 1710.04806), each a function of what the network gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from modules.common.distributed import summed, world_size


@dataclass(frozen=True)
class LossWeights:
    """What E, R, R1 and R2 are multiplied by; the released code's numbers by default."""

    e: float = 20.0
    r: float = 1.0
    r1: float = 1.0
    r2: float = 1.0

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """L: the weighted sum of the terms that a network has, by name."""
        first, *others = (getattr(self, name) * value for name, value in terms.items())
        return sum(others, first)


def reconstruction_error(decoded: Tensor, x: Tensor) -> Tensor:
    """R: squared differences, summed over the pixels of an image and averaged over the batch."""
    return (decoded - x).square().flatten(1).sum(1).mean()


def prototype_error(distances: Tensor) -> Tensor:
    """R1 of D (n, m): the mean over prototypes of the distance to the nearest code of the batch.

    Of the global batch under several processes. Each then has the same value, whose gradient reaches the process with
    the nearest code once for each of them: what the average over processes makes right.
    """
    nearest = distances.amin(0)  # (m,)
    if world_size() > 1:
        own_row = F.one_hot(torch.tensor(dist.get_rank(), device=nearest.device), world_size())
        nearest = summed(own_row[:, None] * nearest).amin(0)  # (processes, m) -> (m,)
    return nearest.mean()


def code_error(distances: Tensor) -> Tensor:
    """R2 of D (n, m): the mean over the batch of the distance to the nearest prototype."""
    return distances.amin(1).mean()
