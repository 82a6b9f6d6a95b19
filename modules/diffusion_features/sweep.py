"""Which block, time step and pooling: a linear probe of every combination, chosen on images held out of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric

from modules.common.closed_form import ClosedForm
from modules.common.diffusion import RowNoise
from modules.common.frozen import Frozen
from modules.diffusion_features.logistic import fit_logistic
from modules.diffusion_features.pictures import draw_sweep


@dataclass(frozen=True)
class Place:
    """Where features are read: a block at a time step, its map averaged down to pool x pool places."""

    block: str
    step: int
    pool: int


class Hits(Metric):
    """Share of right answers of each of several probes, percent; sums, so that processes count as one would."""

    full_state_update = False
    hits: Tensor
    count: Tensor

    def __init__(self, probes: int) -> None:
        super().__init__()
        self.add_state("hits", torch.zeros(probes, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, right: Tensor) -> None:
        """(P, B) of True and False."""
        self.hits += right.double().sum(1)
        self.count += right.shape[1]

    def compute(self) -> Tensor:
        return 100 * self.hits / self.count


class Sweep(ClosedForm):
    """Logistic regression at every place of a source, each on one noisy version of each training image.

    The place that answers best on held-out training images is the source's; test images are answered at all places.
    Features are standardised, for all sources alike.

    Metrics: `test/top1` at the chosen place, percent; `test/<name>_top1` at the best place, by the same choice, of each
    block, time step, pooling and group of blocks; `test/block` and so on, what was chosen, blocks by their order.

    Args:
        source: a stage whose `source()` is read.
        classes: number of classes.
        steps: time steps; a source that is not noisy has one place where others have several.
        pools: sides of the pooled maps; one that is larger than a map is that map.
        held_out: training images that choose, and are not trained on.
        penalty, iterations: see fit_logistic.
        batch: images at a time.
    Raises:
        ValueError: no time step or pooling.
    """

    solution = ("weights", "held_out_top1")
    weights: Tensor  # of all probes, one after another, (C, D + 1) each
    held_out_top1: Tensor  # (P,)

    def __init__(
        self,
        source: Any,
        classes: int,
        steps: Sequence[int],
        pools: Sequence[int],
        held_out: int = 1000,
        penalty: float = 0.001,
        iterations: int = 25,
        batch: int = 250,
    ) -> None:
        super().__init__()
        if not steps or not pools:
            raise ValueError(f"steps={list(steps)}, pools={list(pools)}: expected one of each or more")
        read = source.source()
        self.frozen = Frozen([read])
        self.classes, self.held_out = classes, held_out
        self.penalty, self.iterations, self.batch = penalty, iterations, batch
        self.steps = list(steps) if read.noisy else [0]
        self.blocks = list(read.shapes)
        self.places = [
            Place(block, step, pool)
            for step in self.steps
            for block, (_, side, _) in read.shapes.items()
            for pool in dict.fromkeys(min(pool, side) for pool in pools)
        ]
        self.sizes = [read.shapes[p.block][0] * p.pool**2 for p in self.places]
        self.pools = sorted({p.pool for p in self.places})
        self.groups = read.groups()
        self.hits = Hits(len(self.places))
        self.row_noise = RowNoise(0)
        self.test_top1 = torch.zeros(len(self.places))

    def read(self, x: Tensor, eps: Tensor, step: int) -> dict[Place, Tensor]:
        """Features (B, D) of noisy images at all places of one time step."""
        (source,) = self.frozen.on(x.device)
        with torch.inference_mode():
            maps = source(x, torch.full((len(x),), step, device=x.device), eps, self.blocks)
        places = [place for place in self.places if place.step == step]
        return {p: F.adaptive_avg_pool2d(maps[p.block], p.pool).flatten(1) for p in places}

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, P, C) of all probes, for images (B, C, S, S) and fresh noise."""
        return torch.stack(self.answer(x, torch.randn_like(x)), 1)

    def answer(self, x: Tensor, eps: Tensor) -> list[Tensor]:
        """Logits (B, C) of each probe."""
        features = {place: f for step in self.steps for place, f in self.read(x, eps, step).items()}
        weights = self.split_weights()
        with torch.autocast(x.device.type, enabled=False):  # lower precision is for networks
            return [F.linear(features[p], w[:, :-1], w[:, -1]) for p, w in zip(self.places, weights, strict=True)]

    def split_weights(self) -> list[Tensor]:
        """(C, D + 1) of each probe, the bias last; zeros before training."""
        lengths = [self.classes * (size + 1) for size in self.sizes]
        flat = self.weights if len(self.weights) else torch.zeros(sum(lengths), device=self.device)
        return [part.view(self.classes, -1) for part in flat.split(lengths)]

    def solve(self, x: Tensor, y: Tensor) -> None:
        """Images (N, C, S, S) and labels (N,), in no particular order."""
        if len(x) <= self.held_out:
            raise ValueError(f"held_out={self.held_out}: there are only {len(x)} training images")
        eps = torch.randn_like(x)
        chosen, trained = slice(0, self.held_out), slice(self.held_out, None)
        weights, scores = [], []
        for step in self.steps:
            parts = [self.read(a, b, step) for a, b in zip(x.split(self.batch), eps.split(self.batch), strict=True)]
            for place in parts[0]:
                f = torch.cat([part[place] for part in parts])  # (N, D)
                weight, bias = fit_logistic(f[trained], y[trained], self.classes, self.penalty, self.iterations)
                right = F.linear(f[chosen], weight, bias).argmax(1) == y[chosen]
                weights.append(torch.cat([weight, bias[:, None]], 1).flatten())
                scores.append(100 * right.float().mean())
        self.weights, self.held_out_top1 = torch.cat(weights), torch.stack(scores)

    def best(self, kept: Sequence[int] | None = None) -> int:
        """The place, of those kept or of all, that answers best on the held-out images; the first of equals."""
        rows = list(range(len(self.places)) if kept is None else kept)
        return rows[int(self.held_out_top1[rows].argmax())]

    @property
    def chosen(self) -> Place:
        return self.places[self.best() if len(self.held_out_top1) else 0]  # the first one in a dry run

    # Test

    def on_test_epoch_start(self) -> None:
        seed = int(torch.randint(2**31, ()))
        self.row_noise = RowNoise(seed, self.trainer.global_rank, self.trainer.world_size)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        _, eps = self.row_noise(batch.x)
        self.hits.update(torch.stack([logits.argmax(1) == batch.y for logits in self.answer(batch.x, eps)]))

    def on_test_epoch_end(self) -> None:
        top1 = self.hits.compute()
        self.test_top1 = top1.cpu()
        metrics = {"n": float(self.hits.count), "top1": float(top1[self.best()])}
        for name, kept in self.parts().items():
            metrics[f"{name}_top1"] = float(top1[self.best(kept)])
        place = self.chosen
        metrics |= {"block": float(1 + self.blocks.index(place.block)), "step": float(place.step)}
        metrics |= {"pool": float(place.pool), "held_out_top1": float(self.held_out_top1.max())}
        self.hits.reset()
        self.log_dict({f"test/{name}": value for name, value in metrics.items()})

    def parts(self) -> dict[str, list[int]]:
        """Rows of `places` that share a block, a time step, a pooling or a group of blocks."""
        rows = list(enumerate(self.places))
        parts = {f"block_{b}": [i for i, p in rows if p.block == b] for b in self.blocks}
        parts |= {f"step_{s}": [i for i, p in rows if p.step == s] for s in self.steps}
        parts |= {f"pool_{d}": [i for i, p in rows if p.pool == d] for d in self.pools}
        return parts | {name: [i for i, p in rows if p.block in group] for name, group in self.groups.items()}

    def artifacts(self) -> dict[str, np.ndarray]:
        """Percent right at every place, on held-out and on test images."""
        return {"top1": torch.stack([self.held_out_top1.cpu(), self.test_top1.float()]).numpy()}

    def pictures(self, data: Any) -> dict[str, Figure]:
        return {"blocks and time steps": draw_sweep(self.places, self.test_top1.tolist())}
