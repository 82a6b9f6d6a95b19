"""The graph E of neighbouring coding vectors, which grows as in Neural Gas (NAPA-VQ, arXiv 2308.09297)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.common.distributed import summed

DECAY = 0.9  # of an edge's strength whenever its row wins without it
WEAKEST = DECAY**10  # an edge weaker than this is removed
ROUNDING = 1e-4  # of a strength: ten factors of DECAY in float32 may come out below WEAKEST


def task_of_each(tasks: Sequence[int], classes: int) -> Tensor:
    """The task (C,) of each of the first C classes, which arrive `tasks[0]` first."""
    return torch.repeat_interleave(torch.arange(len(tasks)), torch.tensor(tasks))[:classes]


def pairs_across(tasks: Sequence[int], classes: int) -> Tensor:
    """(C, C) bool: each pair of classes from different tasks once."""
    task = task_of_each(tasks, classes)
    return task[:, None] < task[None, :]


def grow_edges(edges: Tensor, d: Tensor, neighbours: int) -> Tensor:
    """The graph after a batch: edges to each winner's nearest are renewed, its others fade.

    Args:
        edges: E (M, M), strengths in [0, 1] with ones on the diagonal.
        d: (B, M) distances to the coding vectors; the winner of a sample is the nearest.
        neighbours: K, how many of the nearest are joined to the winner, itself included.
    """
    m = len(edges)
    nearest = d.detach().argsort(dim=1, stable=True)[:, :neighbours]  # (B, K), the winner first; ties go to the older

    hits = torch.bincount((nearest[:, :1] * m + nearest).flatten(), minlength=m * m).view(m, m).to(edges)
    hits = summed(hits)  # (M, M) [s, n]: how often n was near when s won
    wins = hits.diagonal()[:, None]  # (M, 1): a winner is always near itself

    strengths = torch.maximum(edges, (hits > 0).to(edges))
    strengths = strengths * DECAY ** (wins - hits).clamp(min=0)
    return strengths * (strengths >= WEAKEST * (1 - ROUNDING))
