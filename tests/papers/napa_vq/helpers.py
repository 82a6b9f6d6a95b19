"""Small modules, data and training runs that the tests of NAPA-VQ share, and L_NA as a plain loop."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.common.digits import Digits
from datamodules.napa_vq import Incremental
from modules.common.schedules import multistep
from modules.napa_vq.module import CodingVectors, Losses, NapaVQ
from modules.napa_vq.networks import convnet
from tests.quiet import trainer as quiet_trainer

TASKS = [4, 2, 2]


def build_network() -> nn.Module:
    return convnet(1, 8, [4, 6], [2, 1])


def build_vectors(**options: Any) -> CodingVectors:
    """Six features wide."""
    settings: dict[str, Any] = {
        "optimizer": functools.partial(torch.optim.SGD, lr=0.1),
        "schedule": functools.partial(multistep, milestones=[20, 40, 60, 80]),
    }
    return CodingVectors(6, **{**settings, **options})


def build_module(previous: NapaVQ | None = None, *, seed: int = 0, **options: object) -> NapaVQ:
    """A small NapaVQ; options that Losses has go there. Without `previous` it gets a network."""
    torch.manual_seed(seed)
    settings: dict[str, object] = {
        "network": build_network() if previous is None else None,
        "optimizer": functools.partial(torch.optim.Adam, lr=1e-3, weight_decay=2e-4),
        "schedule": functools.partial(multistep, milestones=[45, 90]),
        "vectors": build_vectors(),
        **options,
    }
    chosen = {name: settings.pop(name) for name in list(settings) if name in Losses.__dataclass_fields__}
    losses = Losses(**{"neighbours": 5, **chosen})  # type: ignore[arg-type]
    return NapaVQ(TASKS, losses=losses, previous=previous, **settings)  # type: ignore[arg-type]


def build_data(task: int) -> Incremental:
    return Incremental(Digits(32, 1000, 0, 300, seed=3), 32, TASKS, task, order_seed=7, per_class=30)


def fit(module: NapaVQ, data: Incremental, *, test: bool = False) -> dict[str, float]:
    """Two epochs, and the metrics of a test if wanted."""
    trainer = quiet_trainer(2, use_distributed_sampler=False)
    torch.manual_seed(0)
    trainer.fit(module, datamodule=data)
    return dict(trainer.test(module, datamodule=data, verbose=False)[0]) if test else {}


def copy_of(module: NapaVQ) -> NapaVQ:
    copied = build_module()
    copied.load_state_dict(module.state_dict())
    return copied


def symmetric(edges: Tensor) -> Tensor:
    return (edges + edges.T) / 2


def loop_neighbour_loss(edges: Tensor, x: Tensor, v: Tensor, y: Tensor, k: int) -> tuple[float, Tensor]:
    """L_NA and the graph after it, sample by sample in plain Python."""
    m = len(v)
    d = [[math.dist(f, c) for c in v.tolist()] for f in x.tolist()]
    hits = [[0] * m for _ in range(m)]
    wins = [0] * m
    for row in d:
        nearest = sorted(range(m), key=lambda n: row[n])[:k]
        wins[nearest[0]] += 1
        for n in nearest:
            hits[nearest[0]][n] += 1

    e = edges.tolist()
    for s in range(m):
        for n in range(m):
            e[s][n] = (1.0 if hits[s][n] else e[s][n]) * 0.9 ** max(wins[s] - hits[s][n], 0)
            e[s][n] = 0.0 if e[s][n] < 0.9**10 else e[s][n]

    total = 0.0
    for row, label in zip(d, y.tolist(), strict=True):
        near = [n for n in range(m) if n != label and e[label][n] > 0 and row[n] > 0]
        w = [math.exp(-0.001 * row[n] ** 2) for n in near]
        push = sum(a * row[n] ** 2 for a, n in zip(w, near, strict=True)) / (sum(w) or 1)
        total += max(row[label] ** 2 - push, 0)
    return total / len(x), torch.tensor([[(e[i][j] + e[j][i]) / 2 for j in range(m)] for i in range(m)])
