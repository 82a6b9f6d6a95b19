"""Values of games: the sheet's hand-computed ones, Shapley's axioms, sampling, and what the released code computes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from modules.copyscope.games import (
    METHODS,
    dividends_as_released,
    increment,
    leave_one_out,
    permutation_shapley,
    shapley,
    shares,
    with_dividends,
)

A, B, C = 1, 2, 4


def table(players: int, fid: dict[int, float]) -> Tensor:
    """U = -FID; coalitions that are not given are NaN."""
    u = torch.full((1 << players,), torch.nan, dtype=torch.float64)
    for coalition, value in fid.items():
        u[coalition] = -value
    return u


TOY = table(3, {0: 100, A: 70, B: 80, C: 95, A | B: 40, A | C: 68, B | C: 79, A | B | C: 36})


def random_game(players: int = 4, games: int = 1) -> Tensor:
    return torch.randn(games, 1 << players, dtype=torch.float64)


def close(values: Tensor, expected: list[float], within: float = 1e-9) -> bool:
    return values.tolist() == pytest.approx(expected, abs=within)


def test_toy_game() -> None:
    assert close(shapley(TOY), [35.5, 25.0, 3.5])
    assert close(shares(shapley(TOY)), [55.47, 39.06, 5.47], 0.005)
    assert close(leave_one_out(TOY), [43, 32, 4])
    assert close(increment(TOY), [30, 20, 5])
    assert close(dividends_as_released(TOY), [97.33, 81.83, 52.83], 0.005)
    assert float(dividends_as_released(TOY).sum()) == pytest.approx(232)  # U(all) - U(none) is 64


def test_substitutes_get_nothing_by_leave_one_out() -> None:
    u = table(2, {0: 100, A: 50, B: 50, A | B: 50})
    assert close(leave_one_out(u), [0, 0])
    assert close(shapley(u), [25, 25])


def test_rows_of_the_released_readme() -> None:
    """Four players, ten of sixteen coalitions; missing ones count as 0, as in the released code."""
    depth, davinci, mona, leonardo = 1, 2, 4, 8
    u = table(
        4,
        {
            0: 310.18,
            depth: 289.24,
            depth | davinci: 239.17,
            depth | davinci | mona: 233.21,
            15: 220.40,
            davinci: 265.01,
            davinci | mona: 241.18,
            davinci | mona | leonardo: 275.92,
            mona: 336.24,
            leonardo: 307.06,
        },
    )
    values = dividends_as_released(u)
    assert close(values, [104.55, 174.70, 67.96, 36.99], 0.01)
    assert close(shares(values), [27.21, 45.47, 17.69, 9.63], 0.01)


def test_normalisation_of_the_released_values() -> None:
    fid = torch.tensor([-23.44, -82.10, -140.85, -34.10, 10.29], dtype=torch.float64)  # changes of FID
    assert close(shares(-fid), [8.06, 28.24, 48.44, 11.73, -3.54], 0.01)
    assert close(shares(torch.zeros(3)), [0, 0, 0])


def test_efficiency() -> None:
    u = random_game(games=5)
    assert torch.allclose(shapley(u).sum(-1), u[:, -1] - u[:, 0])


def test_symmetry() -> None:
    u = random_game()[0]
    every = torch.arange(16)
    swapped = every & ~3 | (every & 1) << 1 | (every >> 1 & 1)  # players 0 and 1 exchanged
    u = (u + u[swapped]) / 2
    values = shapley(u)
    assert float(values[0]) == pytest.approx(float(values[1]))
    assert torch.allclose(shapley(u[swapped]), values)


def test_dummy() -> None:
    u = random_game()[0]
    u[torch.arange(16) >> 2 & 1 == 1] = u[torch.arange(16) >> 2 & 1 == 0]
    assert float(shapley(u)[2]) == pytest.approx(0, abs=1e-12)
    assert float(leave_one_out(u)[2]) == pytest.approx(0, abs=1e-12)


def test_additivity() -> None:
    u, v = random_game()[0], random_game()[0]
    assert torch.allclose(shapley((u + v) / 2), (shapley(u) + shapley(v)) / 2)


def test_against_all_orders_of_the_players() -> None:
    u = random_game(4)[0]
    values = torch.zeros(4, dtype=torch.float64)
    for order in itertools.permutations(range(4)):
        coalition = 0
        for player in order:
            values[player] += (u[coalition | 1 << player] - u[coalition]) / 24
            coalition |= 1 << player
    assert torch.allclose(shapley(u), values)


def test_sampled_orders_come_near() -> None:
    u = random_game(4, 3)
    exact, sampled = shapley(u), permutation_shapley(u, 5000)
    assert float(((exact - sampled).abs() / exact.abs().sum(-1, keepdim=True)).max()) < 0.02
    assert torch.allclose(sampled.sum(-1), exact.sum(-1))  # each order is efficient
    assert close(permutation_shapley(TOY, 2000), shapley(TOY).tolist(), 1.5)


def test_an_additive_game_is_the_same_by_all_methods() -> None:
    worth = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    coalitions = torch.arange(8)
    u = sum((coalitions >> i & 1) * worth[i] for i in range(3))
    assert isinstance(u, Tensor)
    for name in ("shapley", "permutation", "loo", "increment"):
        assert torch.allclose(METHODS[name](u), worth), name


def test_released_values_are_shapley_values_of_the_game_with_these_dividends() -> None:
    u = random_game(4)[0]
    dividends = u - u[0]
    assert torch.allclose(dividends_as_released(u), shapley(with_dividends(dividends)))


@pytest.mark.parametrize("size", [0, 1, 3, 6])
def test_a_table_of_another_length_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"a table of {size} coalitions"):
        shapley(torch.zeros(size))


def test_a_missing_coalition_is_refused() -> None:
    u = TOY.clone()
    u[3] = torch.nan
    for name in ("shapley", "permutation", "loo", "increment"):
        with pytest.raises(ValueError, match="expected all"):
            METHODS[name](u)
