"""Cooperative games of N players as tables: U[S] for each coalition S, a number whose bit i says that player i is in.

    exact       phi_i = sum_{S without i} |S|! (N - 1 - |S|)! / N!  (U[S + i] - U[S])             (Shapley)
    sampled     phi_i = mean over permutations of U[those before i, and i] - U[those before i]
    LOO         U[all] - U[all but i]
    increment   U[i] - U[none]
    released    sum_{S with i} (U[S] - U[none]) / |S|: the released code takes measured values for Harsanyi dividends
                (it sums v(A) = sum_{B in A} U[B] - U[none] first), so that efficiency fails

U is a similarity: more is nearer to the original. A value is positive where a player brings the images nearer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Method = Callable[[Tensor], Tensor]


def players_of(u: Tensor) -> int:
    """N of tables (..., 2^N).

    Raises:
        ValueError: another length, or a coalition without a value: a missing one would be given a made-up value.
    """
    size = u.shape[-1]
    n = size.bit_length() - 1
    if size < 2 or size != 1 << n:
        raise ValueError(f"a table of {size} coalitions: expected 2^N, all of them")
    if not bool(u.isfinite().all()):
        raise ValueError("a table with a coalition that was not measured: expected all 2^N")
    return n


def _without(n: int, player: int) -> Tensor:
    """The coalitions that a player is not in, (2^(n-1),)."""
    every = torch.arange(1 << n)
    return every[every >> player & 1 == 0]


def _sizes(coalitions: Tensor, n: int) -> Tensor:
    return sum((coalitions >> i & 1 for i in range(n)), torch.zeros_like(coalitions))


def shapley(u: Tensor) -> Tensor:
    """Exact Shapley values of tables (..., 2^N), (..., N)."""
    n = players_of(u)
    values = []
    for player in range(n):
        without = _without(n, player)
        weights = [math.factorial(s) * math.factorial(n - 1 - s) / math.factorial(n) for s in range(n)]
        weight = torch.tensor(weights, dtype=u.dtype)[_sizes(without, n)]
        values.append(((u[..., without + (1 << player)] - u[..., without]) * weight).sum(-1))
    return torch.stack(values, -1)


def permutation_shapley(u: Tensor, permutations: int = 5000, seed: int = 0) -> Tensor:
    """Shapley values sampled from so many orders of the players, (..., N)."""
    n = players_of(u)
    source = torch.Generator().manual_seed(seed)
    orders = torch.rand(permutations, n, generator=source).argsort(1)  # (P, N) player at each place
    bits = torch.ones_like(orders) << orders
    after = bits.cumsum(1)  # coalition once the player at that place has joined
    gains = u[..., after] - u[..., after - bits]  # (..., P, N) by place
    by_player = torch.zeros_like(gains).scatter(-1, orders.expand_as(gains), gains)
    return by_player.mean(-2)


def leave_one_out(u: Tensor) -> Tensor:
    """(..., 2^N) -> (..., N)."""
    n = players_of(u)
    everybody = (1 << n) - 1
    return torch.stack([u[..., everybody] - u[..., everybody ^ (1 << i)] for i in range(n)], -1)


def increment(u: Tensor) -> Tensor:
    """(..., 2^N) -> (..., N)."""
    return torch.stack([u[..., 1 << i] - u[..., 0] for i in range(players_of(u))], -1)


def dividends_as_released(u: Tensor) -> Tensor:
    """What the released code computes, (..., 2^N) -> (..., N). NaN stands for a coalition that was not generated.

    It counts as 0 there, and does here.
    """
    n = u.shape[-1].bit_length() - 1
    gain = (u - u[..., :1]).nan_to_num(nan=0.0)
    every = torch.arange(1 << n)
    each = gain / _sizes(every, n).clamp(min=1)
    return torch.stack([each[..., every >> i & 1 == 1].sum(-1) for i in range(n)], -1)


def with_dividends(dividends: Tensor) -> Tensor:
    """The game whose Harsanyi dividends these are: v[A] = sum over the subsets B of A of dividends[B]."""
    v = dividends.clone()
    n = v.shape[-1].bit_length() - 1
    for player in range(n):
        without = _without(n, player)
        v[..., without + (1 << player)] += v[..., without]
    return v


METHODS: Mapping[str, Method] = {
    "shapley": shapley,
    "permutation": permutation_shapley,
    "loo": leave_one_out,
    "increment": increment,
    "dividends_as_released": dividends_as_released,
}


def shares(values: Tensor) -> Tensor:
    """Values (..., N) over the sum of their sizes, percent; 0 where nobody changes anything."""
    return 100 * values / values.abs().sum(-1, keepdim=True).clamp(min=1e-12)
