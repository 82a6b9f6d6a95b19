"""Which images share a batch: G-SimCLR's orders (arXiv 2009.12007) as pure functions, and batches of them.

An order is the rows of an epoch's batches, (steps, B): whole batches alone, N // B of them for every sampler, so that
arms take equally many steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from datamodules.common.base import Batches, Share


def random_order(count: int, batch: int, source: torch.Generator) -> Tensor:
    """A shuffle of `count` images, cut into batches: (count // batch, batch)."""
    steps = count // batch
    return torch.randperm(count, generator=source)[: steps * batch].view(steps, batch)


def strict_order(clusters: Tensor, batch: int, source: torch.Generator) -> Tensor:
    """One image of each of `batch` clusters in every batch: (N // batch, batch), a column for each cluster.

    A cluster's images come in a random order of their own; a cluster with fewer images than there are batches begins
    anew, in another order, and of a larger one some images are left out of the epoch.

    Args:
        clusters: of each image, (N,).
        batch: images in a batch.
        source: random numbers of this epoch.
    Raises:
        ValueError: the number of clusters is not the batch size.
    """
    members = [(clusters == cluster).nonzero().flatten() for cluster in clusters.unique()]
    if len(members) != batch:
        raise ValueError(f"{len(members)} clusters for batches of {batch}: expected as many clusters as images")
    steps = len(clusters) // batch
    columns = []
    for rows in members:
        passes = -(-steps // len(rows))
        drawn = [rows[torch.randperm(len(rows), generator=source)] for _ in range(passes)]
        columns.append(torch.cat(drawn)[:steps])
    return torch.stack(columns, 1)


def rank_order(clusters: Tensor, batch: int) -> Tensor:
    """All images by their rank within their cluster, cut into batches: (N // batch, batch). The released code's order.

    Ranks count in the order of rows; images of one rank come by cluster. Where clusters differ in size, later batches
    hold several images of the large ones.
    """
    by_cluster = clusters.sort(stable=True).indices
    sizes = clusters.unique(return_counts=True)[1]
    first = sizes.cumsum(0) - sizes  # of each cluster, in by_cluster
    rank = torch.arange(len(clusters)) - first.repeat_interleave(sizes)
    order = by_cluster[rank.sort(stable=True).indices]
    steps = len(clusters) // batch
    return order[: steps * batch].view(steps, batch)


def pair_rate(order: Tensor, labels: Tensor) -> float:
    """Share of the pairs of an order's batches whose images have one label, in percent.

    An image that is twice in a batch counts as a pair: it is a false negative of itself.
    """
    steps, batch = order.shape
    counts = torch.zeros(steps, int(labels.max()) + 1, dtype=torch.long)
    counts.scatter_add_(1, labels[order], torch.ones_like(order))
    return 100 * float((counts * (counts - 1)).sum()) / (steps * batch * (batch - 1))


class Ordered(Batches):
    """Training batches that a function of the epoch lays out, global and resumable like shuffled ones.

    Args:
        order: epoch -> rows (steps, B).
        steps, batch_size: B is the global batch.
        seed, rank, world: see Batches.
    """

    def __init__(
        self, order: Callable[[int], Tensor], steps: int, batch_size: int, seed: int, rank: int, world: int
    ) -> None:
        super().__init__(steps * batch_size, batch_size, shuffle=True, seed=seed, rank=rank, world=world)
        self.order = order

    def __iter__(self) -> Iterator[Share]:
        order = self.order(self.epoch)
        for share in super().__iter__():
            row = order[self.position - 1]
            yield replace(share, indices=row[share.start : share.start + len(share.indices)])
