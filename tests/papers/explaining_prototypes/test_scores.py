"""Scores against hand-computed values, plain loops and limit cases."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from modules.common.prototypes import log_similarity
from modules.explaining_prototypes.scores import (
    GlobalScores,
    correlation,
    local_scores,
    look_alikes,
    normalise,
    permuted_correlation,
    permuted_share,
    read_at,
    share_apart,
    share_of_planted,
)


def test_values_at_places() -> None:
    maps = torch.rand(4, 2, 3, 5, 6)
    places = torch.stack([torch.randint(5, (2, 3)), torch.randint(6, (2, 3))], -1)
    values = read_at(maps, places)
    for m, b, j in itertools.product(range(4), range(2), range(3)):
        i, k = places[b, j].tolist()
        assert float(values[m, b, j]) == float(maps[m, b, j, i, k])


def test_local_scores_are_taken_where_the_prototype_was() -> None:
    original = torch.tensor([[[[1.0, 5.0], [2.0, 0.0]]]])  # (1, 1, 2, 2), the prototype is at row 0, column 1
    modified = torch.tensor([[[[[4.0, 3.0], [0.0, 0.0]]]]])  # it would now be found at column 0
    g, fixed, relocated = local_scores(original, modified)
    assert float(g) == 5.0
    assert float(fixed) == 2.0
    assert float(relocated) == 1.0


def test_looking_anew_never_gives_a_larger_score() -> None:
    original, modified = torch.rand(8, 5, 4, 4), torch.rand(3, 8, 5, 4, 4)
    _, fixed, relocated = local_scores(original, modified)
    assert bool((relocated <= fixed).all())
    assert bool((relocated < fixed).any())


def test_no_modification_no_score() -> None:
    original = torch.rand(8, 5, 4, 4)
    _, fixed, relocated = local_scores(original, original.expand(3, -1, -1, -1, -1))
    assert not fixed.any()
    assert not relocated.any()


def test_scores_are_bounded() -> None:
    """Features are in (0, 1) with 128 channels, so distances are in [0, 128]."""
    bound = log_similarity(torch.tensor(0.0)) - log_similarity(torch.tensor(128.0))
    assert float(bound) == pytest.approx(9.2026, abs=1e-4)
    assert float(log_similarity(torch.tensor(128.0))) > 0


def test_global_scores_by_hand() -> None:
    metric = GlobalScores(1, 1, 1)
    g = torch.tensor([[2.0], [1.0]])
    phi = torch.tensor([[[0.5], [0.2]]])
    metric.update(g, phi, phi, torch.zeros(2, dtype=torch.long))
    result = metric.compute()
    assert float(result["global"]) == pytest.approx(0.4)
    assert float(result["unweighted"]) == pytest.approx(0.35)
    assert float(result["images"]) == 2.0


def test_global_scores_of_two_sets_and_of_shared_out_batches() -> None:
    """What processes add up is what one would compute: all states are sums."""
    g, phi, relocated = torch.rand(10, 4), torch.randn(3, 10, 4), torch.randn(3, 10, 4)
    member = torch.arange(10) % 2
    whole = GlobalScores(2, 3, 4)
    whole.update(g, phi, relocated, member)
    parts = [GlobalScores(2, 3, 4) for _ in range(2)]
    for part, rows in zip(parts, (torch.arange(7), torch.arange(7, 10)), strict=True):
        part.update(g[rows], phi[:, rows], relocated[:, rows], member[rows])
    assert set(whole._reductions) == {"weight", "weighted", "relocated", "plain", "images"}
    for name in whole._reductions:
        assert whole._reductions[name] is not None
        assert torch.allclose(sum(getattr(part, name) for part in parts), getattr(whole, name))
    for s in range(2):
        own = member == s
        expected = (g[own] * phi[:, own]).sum(1) / g[own].sum(0)
        assert torch.allclose(whole.compute()["global"][s], expected.double(), atol=1e-6)


def test_normalised_scores_have_unit_size() -> None:
    scores = torch.randn(5, 40)
    scores[3] *= 100
    assert torch.allclose(normalise(scores).abs().mean(1), torch.ones(5))
    assert torch.equal(normalise(scores).sign(), scores.sign())
    assert not normalise(torch.zeros(2, 3)).any()


def test_share_of_planted_by_hand() -> None:
    scores = torch.tensor([[3.0, 1.0, 0.0, 2.0], [1.0, 2.0, 5.0, 0.0], [0.0, 0.0, 1.0, 9.0]])  # on top: 0, 1, 1, 2
    assert share_of_planted(scores, torch.tensor([0, 0, 1, -1])) == {0: 50.0, 1: 100.0}
    constant = torch.tensor([1.0, 0.0, 0.0])[:, None].expand(3, 4)  # one answer for all is worth one group's share
    shares = share_of_planted(constant, torch.tensor([0, 1, 1, 2]))
    assert sum(shares.values()) / len(shares) == pytest.approx(100 / 3)


def test_permuted_share_is_the_mean_over_all_permutations() -> None:
    scores, planted = torch.rand(3, 6), torch.tensor([0, 0, 2, 2, 1, -1])
    every = []
    for order in itertools.permutations(range(5)):
        shares = share_of_planted(scores[:, [*order, 5]], planted)
        every.append(sum(shares.values()) / len(shares))
    assert permuted_share(scores, planted) == pytest.approx(sum(every) / len(every))
    assert permuted_share(scores, torch.full((6,), -1)) == 0


def test_correlation_is_pearsons() -> None:
    a, b = torch.randn(3, 30, dtype=torch.float64), torch.randn(3, 30, dtype=torch.float64)
    expected = [float(torch.corrcoef(torch.stack([a[m], b[m]]))[0, 1]) for m in range(3)]
    assert correlation(a, b).tolist() == pytest.approx(expected)
    assert correlation(a, 3 * a + 1).tolist() == pytest.approx([1.0] * 3)
    assert correlation(a, torch.ones_like(a)).tolist() == [0.0] * 3


def test_permuted_correlation_is_the_mean_over_all_permutations() -> None:
    a, b = torch.randn(2, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    every = [
        correlation(a, b[:, [*first, *(3 + k for k in second)]])
        for first in itertools.permutations(range(3))
        for second in itertools.permutations(range(3))
    ]
    assert torch.allclose(permuted_correlation(a, b, groups), torch.stack(every).mean(0))
    assert torch.allclose(permuted_correlation(a, b, torch.arange(6)), correlation(a, b))  # nothing to permute
    assert torch.allclose(permuted_correlation(a, b, torch.zeros(6)), torch.zeros(2, dtype=torch.float64), atol=1e-12)


def test_look_alikes_are_the_nearest_of_another_kind() -> None:
    pixels = torch.tensor([0.0, 0.1, 1.0, 1.2, 0.05]).view(5, 1, 1, 1)
    first, second = look_alikes(pixels, torch.tensor([0, 0, 2, 2, -1]))
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 2), (1, 2), (2, 1), (3, 1)]
    scores = torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, 1, 0, 1.0]])  # on top: 0, 1, 1, 0, 1
    assert share_apart(scores, (first, second)) == 50.0
    alone, _ = look_alikes(pixels, torch.tensor([1, 1, -1, -1, -1]))
    assert len(alone) == 0


def test_chance_of_the_top_characteristic() -> None:
    scores = torch.rand(5, 20_000)
    shares = share_of_planted(scores, torch.arange(20_000) % 5)
    assert all(math.isclose(share, 20, abs_tol=2) for share in shares.values())
