"""Samplers by hand and against brute force; the same batches on several processes and after a resume."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.common.base import DataError, Fed
from datamodules.common.torchvision_sets import FashionMNIST
from datamodules.g_simclr.images import GuidedBatches, Sampling
from datamodules.g_simclr.orders import Ordered, pair_rate, random_order, rank_order, strict_order

Guided = Callable[..., GuidedBatches]


def source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shuffled(sizes: list[int]) -> Tensor:
    """Clusters of these sizes, (N,), in random order."""
    clusters = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return clusters[torch.randperm(len(clusters), generator=source(7))]


@pytest.mark.parametrize("guide", [rank_order, lambda c, b: strict_order(c, b, source())])
def test_clusters_of_one_size_give_permutations_of_the_clusters(guide: Callable[..., Tensor]) -> None:
    clusters = shuffled([9] * 8)
    order = guide(clusters, 8)
    assert order.shape == (9, 8)
    assert torch.equal(clusters[order].sort(1).values, torch.arange(8).expand(9, 8))
    assert torch.equal(order.flatten().sort().values, torch.arange(72))


def test_sizes_3_and_1_by_hand() -> None:
    """a1, a2, a3 and b1: the released order repeats a in its second batch, the strict one repeats b1 instead."""
    clusters = torch.tensor([0, 0, 1, 0])  # rows a1, a2, b1, a3
    assert rank_order(clusters, 2).tolist() == [[0, 2], [1, 3]]
    for seed in range(5):
        order = strict_order(clusters, 2, source(seed))
        assert clusters[order].tolist() == [[0, 1], [0, 1]]
        assert order[:, 1].tolist() == [2, 2]
        assert order[0, 0] != order[1, 0]


def test_strict_repeats_an_image_only_when_its_cluster_is_used_up() -> None:
    sizes = [2, 5, 8, 10, 15, 20]
    clusters = shuffled(sizes)
    order = strict_order(clusters, 6, source())
    assert order.shape == (10, 6)
    assert all(len(set(row.tolist())) == 6 for row in clusters[order])
    for column, size in enumerate(sizes):
        counts = order[:, column].unique(return_counts=True)[1]
        assert len(counts) == min(size, 10)
        assert int(counts.max() - counts.min()) <= 1
    repeats = order.numel() - len(order.unique())
    assert repeats == sum(max(0, 10 - size) for size in sizes) == 8 + 5 + 2


def test_random_and_rank_order_serve_an_image_at_most_once() -> None:
    clusters = shuffled([2, 5, 8, 10, 15, 23])
    for order in (random_order(63, 6, source()), rank_order(clusters, 6)):
        assert order.shape == (10, 6)
        assert len(order.unique()) == 60


def test_rank_order_against_its_definition() -> None:
    clusters = shuffled([4, 1, 6, 3])
    counts = dict.fromkeys(range(4), 0)
    ranked = []
    for row, cluster in enumerate(clusters.tolist()):
        ranked.append((counts[cluster], cluster, row))
        counts[cluster] += 1
    assert rank_order(clusters, 2).flatten().tolist() == [row for _, _, row in sorted(ranked)]


def test_as_many_clusters_as_images_in_a_batch_are_asked_for() -> None:
    with pytest.raises(ValueError, match="3 clusters for batches of 4"):
        strict_order(shuffled([4, 4, 4]), 4, source())


def test_pair_rates_by_hand_and_by_counting() -> None:
    assert pair_rate(torch.tensor([[0, 1, 2]]), torch.tensor([5, 5, 1])) == pytest.approx(100 / 3)
    labels = torch.randint(4, (30,))
    order = random_order(30, 5, source())
    pairs = [labels[i] == labels[j] for row in order.tolist() for i, j in itertools.combinations(row, 2)]
    assert pair_rate(order, labels) == pytest.approx(100 * sum(map(int, pairs)) / len(pairs), rel=1e-5)


def test_perfect_clusters_take_away_a_seventh_of_the_false_negatives() -> None:
    """10 balanced classes, batches of 64: (n/10 - 1) / (n - 1) at random, 10 6.4 5.4 / (64 63) with pure clusters."""
    labels = torch.arange(6400) % 10
    rates = [pair_rate(random_order(6400, 64, source(seed)), labels) for seed in range(20)]
    assert sum(rates) / 20 == pytest.approx(100 * 639 / 6399, abs=0.1)

    sizes = torch.tensor([7] * 4 + [6] * 6)  # clusters of each class
    classes = torch.arange(10).repeat_interleave(sizes)  # of a cluster
    clusters = torch.arange(64).repeat_interleave(100)
    exact = 100 * float((sizes * (sizes - 1)).sum()) / (64 * 63)
    assert pair_rate(strict_order(clusters, 64, source()), classes[clusters]) == pytest.approx(exact, rel=1e-5)
    assert exact == pytest.approx(100 * 10 * 6.4 * 5.4 / (64 * 63), abs=0.1)


def test_batches_hold_one_image_of_each_cluster_and_change_by_epoch(guided: Guided) -> None:
    data = guided()
    for epoch in range(2):
        composition = data.composition(epoch)
        assert composition["same_cluster"] == 0
        assert composition["distinct"] == 100 * len(data.order(epoch).unique()) / 60
    assert not torch.equal(data.order(0), data.order(1))
    assert torch.equal(data.order(1), guided().order(1))
    fixed = guided("random", reshuffle=False)
    assert torch.equal(fixed.order(0), fixed.order(5))


def test_reweighted_serves_the_images_of_strict_in_other_batches(guided: Guided) -> None:
    strict, reweighted = guided(), guided("reweighted")
    assert torch.equal(strict.order(3).flatten().sort().values, reweighted.order(3).flatten().sort().values)
    assert not torch.equal(strict.order(3), reweighted.order(3))
    assert reweighted.composition(3)["same_cluster"] > 0


def test_reshuffled_rank_order_keeps_its_batches(guided: Guided) -> None:
    kept, moved = guided("rank_order", reshuffle=False), guided("rank_order")
    assert {tuple(row) for row in kept.order(0).tolist()} == {tuple(row) for row in moved.order(2).tolist()}
    assert not torch.equal(moved.order(1), moved.order(2))


def served(data: GuidedBatches, rank: int, world: int, epoch: int = 1, skip: int = 0) -> list[list[int]]:
    batches = Ordered(data.order, 10, 6, data.seed, rank, world)
    batches.set_epoch(epoch)
    batches.load_state_dict({"position": skip})
    return [share.indices.tolist() for share in batches]


@pytest.mark.parametrize("sampler", ["random", "strict", "rank_order", "reweighted"])
def test_two_processes_share_the_batches_of_one(sampler: str, guided: Guided) -> None:
    data = guided(sampler)
    whole = served(data, 0, 1)
    assert whole == data.order(1).tolist()
    assert whole == [a + b for a, b in zip(served(data, 0, 2), served(data, 1, 2), strict=True)]
    assert served(data, 0, 1, skip=4) == whole[4:]


def test_a_loader_serves_the_order_and_resumes_in_it(guided: Guided) -> None:
    data = guided(views=2, rows=True)
    loader = data.train_dataloader()
    batches = list(loader)
    assert [batch.row.tolist() for batch in batches] == data.order(0).tolist()
    assert all(batch.x.shape == batch.x2.shape == (6, 1, 28, 28) for batch in batches)
    again = guided(views=2, rows=True).train_dataloader()
    again.load_state_dict({"position": 7})
    assert all(torch.equal(a.x, b.x) for a, b in zip(again, batches[7:], strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling": Sampling("strict")}, "feeds: {clusters: <stage>}"),
        (
            {"sampling": Sampling("strict"), "clusters": Fed(torch.nn.Identity(), {"clusters": np.zeros(9)})},
            "of 9 images",
        ),
        ({"batch_size": 100}, "batch_size=100: Fashion-MNIST"),
    ],
)
def test_bad_input_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        GuidedBatches(FashionMNIST(6, train_size=60, val_size=0), **{"batch_size": 6, **options}).setup()


def test_a_sampler_is_one_of_four() -> None:
    with pytest.raises(DataError, match="sampler='sorted': expected one of random, strict"):
        Sampling("sorted")
