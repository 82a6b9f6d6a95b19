"""FID's closed forms, the table of a whole small gallery, and the trend of attributions over doses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn

from datamodules.common.base import DataError, Fed
from datamodules.copyscope.coalitions import CoalitionImages, GameTables
from modules.copyscope.ablation import Ablation
from modules.copyscope.attribution import Attribution, rank_correlation, slope
from modules.copyscope.games import shapley, shares
from modules.copyscope.table import Moments, Table, principal_axes

NAMES = ["low", "high"]


def normal(count: int, mean: Tensor, scale: float = 1.0) -> Tensor:
    """Features with exactly this mean and scale^2 times the identity as covariance."""
    x = torch.randn(count, len(mean), dtype=torch.float64)
    x = x - x.mean(0)
    root = torch.linalg.cholesky(x.T @ x / (count - 1))
    return scale * torch.linalg.solve_triangular(root, x.T, upper=False).T + mean


def test_fid_of_shifted_normals_is_the_squared_shift() -> None:
    shift = torch.tensor([3.0, 0.0, -4.0], dtype=torch.float64)
    real, made = Moments(normal(50, torch.zeros(3))), Moments(normal(60, shift))
    assert real.distance(made) == pytest.approx(25.0, abs=1e-6)
    assert real.mean_term(made) == pytest.approx(25.0, abs=1e-6)


def test_fid_of_standard_deviations_1_and_2_is_1() -> None:
    zero = torch.zeros(1, dtype=torch.float64)
    assert Moments(normal(50, zero)).distance(Moments(normal(50, zero, 2.0))) == pytest.approx(1.0, abs=1e-6)


def test_fid_of_a_set_with_itself_is_0() -> None:
    x = torch.randn(20, 6)
    assert abs(Moments(x).distance(Moments(x.flip(0)))) < 1e-3


def test_fid_against_scipy() -> None:
    a, b = torch.randn(40, 5, dtype=torch.float64), torch.randn(30, 5, dtype=torch.float64) * 2 + 1
    first, second = np.cov(a.numpy().T), np.cov(b.numpy().T)
    root = sqrtm(first @ second).real
    expected = float((a.mean(0) - b.mean(0)).square().sum()) + np.trace(first + second - 2 * root)
    assert Moments(a).distance(Moments(b)) == pytest.approx(expected, abs=1e-3)


def test_one_original_has_no_covariance() -> None:
    with pytest.raises(ValueError, match="1 images: expected at least 2"):
        Moments(torch.zeros(1, 4))


def test_principal_axes() -> None:
    x = torch.randn(200, 4) * torch.tensor([1.0, 9.0, 3.0, 0.1])
    axes = principal_axes(x, 2)
    assert axes.abs().round().T.tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]
    with pytest.raises(ValueError, match="dimensions=5: expected at most 4"):
        principal_axes(x, 5)


class MeanColour(nn.Module):
    """Describes images by their mean colour and the standard deviations of their channels."""

    suffix = "_colour"

    def describe(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1), x.mean((2, 3)) + 0.1


def exports() -> tuple[list[Fed], Fed]:
    """Two games of two players on images of 8 pixels. Player 0 turns a share of the images red, as originals are; the
    share is small in one game and large in the other. Player 1 does nothing."""
    grey = torch.randint(100, 150, (40, 3, 8, 8), dtype=torch.uint8)
    red = grey.clone()
    red[:, 0] += 100

    def made(share: float) -> Tensor:
        return torch.where((torch.arange(40) < 40 * share)[:, None, None, None], red, grey)

    shared = {
        "images": np.stack([grey, grey]),
        "coalitions": np.array([0, 2]),
        "originals": red.numpy(),
        "others": grey.flip(1).roll(1, 0).numpy(),
        "reference": torch.cat([red, grey]).numpy(),
    }
    games = [{"images": np.stack([made(s), made(s)]), "coalitions": np.array([1, 3])} for s in (0.2, 0.7)]
    return [Fed(nn.Identity(), game) for game in games], Fed(nn.Identity(), shared)


def run(module: Any, data: Any) -> dict[str, float]:
    """What a test of `data` logs."""
    data.setup("test")
    module._trainer = SimpleNamespace(datamodule=data)
    logged: dict[str, float] = {}
    module.log = lambda name, value, **_: logged.update({name: float(value)})
    module.log_dict = lambda values, **_: logged.update({name: float(value) for name, value in values.items()})
    module.on_test_epoch_start()
    for number, batch in enumerate(data.test_dataloader()):
        module.test_step(batch, number)
    module.on_test_epoch_end()
    return logged


def tabulate(**options: Any) -> tuple[Table, dict[str, float]]:
    games, shared = exports()
    table = Table(MeanColour(), ["painter", "idle"], **options)
    logged = run(table, CoalitionImages(32, games, NAMES, shared))
    return table, logged


def test_a_table_of_two_games() -> None:
    table, logged = tabulate()
    u = table.arrays["u_fid_colour"]  # (games, 4)
    assert u.shape == (2, 4)
    assert np.array_equal(u[:, 0], u[:, 2])  # player 1 does nothing
    assert u[0, 0] == u[1, 0]  # the shared coalitions
    assert 0 > u[1, 1] > u[0, 1] > u[0, 0]
    assert logged["test/fid_colour_painter+idle_high"] == -u[1, 3]
    assert logged["test/n"] == 40 + 40 + 80 + 2 * 40 + 4 * 40
    assert table.arrays["u_fid_colour_others"][1, 1] < table.arrays["u_fid_colour_others"][0, 1]
    phi = shapley(torch.from_numpy(u))
    assert phi[:, 1].tolist() == pytest.approx([0, 0], abs=1e-9)
    assert phi.sum(-1).tolist() == pytest.approx((u[:, 3] - u[:, 0]).tolist())


def test_resampled_tables_use_the_same_images_for_all_coalitions() -> None:
    table, _ = tabulate(resamples=3)
    b = table.arrays["b_fid_colour"]
    assert b.shape == (3, 2, 4)
    assert np.array_equal(b[..., 0], b[..., 2])
    assert len({float(value) for value in b[:, 0, 0]}) == 3


def test_attributions_follow_the_dose() -> None:
    table, _ = tabulate(resamples=3)
    data = GameTables(100, Fed(nn.Identity(), table.arrays), Fed(nn.Identity(), {"effects": np.array([2.0, 1.0])}))
    module = Attribution("fid_colour", doses={"low": 0.2, "high": 0.7}, dosed="painter", ablated="high")
    logged = run(module, data)
    assert logged["test/fid_colour_shapley_painter_high"] == pytest.approx(100)
    assert logged["test/raw_shapley_painter_high"] > logged["test/raw_shapley_painter_low"] > 0
    assert abs(logged["test/fid_colour_shapley_rise"]) < 1e-6  # the share is all in both games
    assert logged["test/fid_colour_shapley_ablation"] == pytest.approx(1.0)
    assert logged["test/n"] == len(data.scores) * 2
    assert set(module.pictures(data)) == {"attributions by method", "attributions by score"}


def test_ablation_is_leave_one_out_in_raw_units() -> None:
    games, shared = exports()
    full, partly = games[1].arrays, shared.arrays
    images = np.stack([full["images"][0], full["images"][1], partly["images"][1]])
    again = {"images": images, "coalitions": np.array([1, 3, 2])}
    module = Ablation(MeanColour(), ["painter", "idle"])
    logged = run(module, CoalitionImages(32, Fed(nn.Identity(), again), ["high"], shared, complete=False))
    assert logged["test/without_idle"] == pytest.approx(logged["test/with"])
    assert logged["test/without_painter"] > logged["test/with"]
    assert module.arrays["effects"][0] == pytest.approx(logged["test/without_painter"] - logged["test/with"])


def test_trends() -> None:
    doses = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    assert slope(3 + 20 * doses, doses) == pytest.approx(20)
    assert rank_correlation(torch.tensor([1.0, 2.0, 4.0, 3.0]), doses) == pytest.approx(0.8)
    assert rank_correlation(torch.ones(4), doses) == 0
    assert shares(torch.tensor([[1.0, -3.0]])).tolist() == [[25, -75]]


def test_a_game_without_all_coalitions_is_refused() -> None:
    games, shared = exports()
    own = [Fed(nn.Identity(), {**shared.arrays, **game.arrays}) for game in games]
    with pytest.raises(DataError, match="low: 2 coalitions, expected all 4"):
        CoalitionImages(32, own, NAMES).setup("test")
    with pytest.raises(DataError, match=r"2 games, but names=\['low'\]"):
        CoalitionImages(32, games, ["low"], shared)


def test_a_method_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="methods: 'banzhaf': expected names among shapley"):
        Attribution("fid", methods=["banzhaf"])


def test_an_ablation_counts_all_its_images() -> None:
    games, shared = exports()
    images = np.stack([*games[1].arrays["images"], shared.arrays["images"][1]])
    again = {"images": images, "coalitions": np.array([1, 3, 2])}
    data = CoalitionImages(32, Fed(nn.Identity(), again), ["high"], shared, complete=False)
    logged = run(Ablation(MeanColour(), ["painter", "idle"]), data)
    assert logged["test/n"] == 40 + 40 + 80 + 2 * 40 + 3 * 40


def test_steps_go_from_dose_to_dose_and_not_by_name() -> None:
    module = Attribution("fid", methods=["shapley"], doses={"b": 0.0, "c": 1.0, "a": 0.5}, dosed="painter")
    for game, own in (("a", 3.0), ("b", 1.0), ("c", 4.0)):
        module.values["fid", "shapley", game] = torch.tensor([own, own - 10], dtype=torch.float64)
    data = SimpleNamespace(players=["painter", "idle"], names=["a", "b", "c"], arrays={})
    trend = module.trend(data, "fid", "shapley")  # shares of 10, 30 and 40 percent
    assert trend == {"fid_shapley_rise": pytest.approx(30), "fid_shapley_step": pytest.approx(10)}
