"""From tables to attributions: who contributed what, and whether the share of one player follows its planted dose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor

from modules.common.module import StageModule
from modules.copyscope.games import METHODS, shares
from modules.copyscope.pictures import draw_bars


def rank_correlation(values: Tensor, doses: Tensor) -> float:
    """Spearman's; 0 where all values are the same."""
    if bool((values == values[0]).all()):
        return 0.0
    return float(spearmanr(values.tolist(), doses.tolist()).statistic)


def slope(values: Tensor, doses: Tensor) -> float:
    """Least squares: how much the values rise while the dose goes from 0 to 1."""
    centred = doses - doses.mean()
    return float((centred * values).sum() / centred.square().sum())


class Attribution(StageModule):
    """Attributes the value of each game to its players, by every score and method. Nothing is trained.

    Test metrics, for each score and method (for other scores than `first`, exact Shapley values alone); shares are in
    percent of the sum of all sizes, positive where a player brings the images nearer to the originals:
    - <score>_<method>_<player>_<game>, the share; for `first` also raw_<method>_<player>_<game>, in units of its score;
    - permutation_error, the largest difference between sampled and exact Shapley values of `first`, over the sum of
      sizes;
    - for the games in `doses`: <score>_<method>_rise, the slope of `dosed`'s share, points for a whole dose; _step, its
      smallest step between neighbouring doses; where the tables have resampled images, also _spearman, rank correlation
      of share and dose in the mean over them, and _resolution, the smallest of these steps in units of its standard
      deviation over them: how surely the nearest two doses are told apart;
    - where there is an ablation: <score>_<method>_ablation, Spearman's of the shares of game `ablated` with the effect
      of leaving out each player on other noise.
    n, tables.

    Args:
        first: the score whose raw values are logged.
        methods: names in games.METHODS.
        doses: game -> dose, from 0 to 1.
        dosed: the player whose dose it is.
        ablated: the game that the data's ablation is of.
    Raises:
        ValueError: a method that does not exist.
    """

    def __init__(
        self,
        first: str,
        methods: Sequence[str] = ("shapley", "loo", "increment"),
        doses: Mapping[str, float] | None = None,
        dosed: str = "lora",
        ablated: str | None = None,
    ) -> None:
        super().__init__()
        if wrong := [name for name in methods if name not in METHODS]:
            raise ValueError(f"methods: {wrong[0]!r}: expected names among {', '.join(METHODS)}")
        self.first, self.methods, self.dosed, self.ablated = first, list(methods), dosed, ablated
        self.doses = {str(game): float(dose) for game, dose in (doses or {}).items()}
        self.values: dict[tuple[str, str, str], Tensor] = {}  # score, method, game -> (N,)

    def forward(self, u: Tensor) -> Tensor:
        """Tables (B, 2^N) -> exact Shapley values (B, N)."""
        return METHODS["shapley"](u)

    def on_test_epoch_start(self) -> None:
        self.values = {}

    def test_step(self, batch: Any, batch_idx: int) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        for method in {*self.methods, "shapley", "permutation"}:
            values = METHODS[method](batch.x)  # (B, N)
            for score, game, phi in zip(batch.score.tolist(), batch.game.tolist(), values, strict=True):
                self.values[data.scores[score], method, data.names[game]] = phi

    def shown(self, score: str) -> Sequence[str]:
        """Methods that are logged of a score."""
        return self.methods if score == self.first else ["shapley"]

    def on_test_epoch_end(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        metrics = {"n": float(data.spec.sizes["test"]), "permutation_error": self.sampling_error(data)}
        for (score, method, game), phi in self.values.items():
            if method not in self.shown(score):
                continue
            for player, share, raw in zip(data.players, shares(phi).tolist(), phi.tolist(), strict=True):
                metrics[f"{score}_{method}_{player}_{game}"] = share
                if score == self.first:
                    metrics[f"raw_{method}_{player}_{game}"] = raw
        if self.doses:
            for score in data.scores:
                for method in self.shown(score):
                    metrics |= self.trend(data, score, method)
        effects = data.effects()
        if effects is not None and self.ablated is not None:
            for score in data.scores:
                for method in self.shown(score):
                    phi = self.values[score, method, self.ablated]
                    metrics[f"{score}_{method}_ablation"] = rank_correlation(phi, effects)
        self.log_dict({f"test/{name}": value for name, value in metrics.items()})

    def sampling_error(self, data: Any) -> float:
        """Of sampled Shapley values of the first score, over the games."""
        errors = []
        for game in data.names:
            exact, sampled = (self.values[self.first, method, game] for method in ("shapley", "permutation"))
            errors.append(float((exact - sampled).abs().max() / exact.abs().sum().clamp(min=1e-12)))
        return max(errors)

    def trend(self, data: Any, score: str, method: str) -> dict[str, float]:
        """How the dosed player's share follows its dose."""
        games = sorted(self.doses, key=lambda game: self.doses[game])
        doses = torch.tensor([self.doses[game] for game in games], dtype=torch.float64)
        player = data.players.index(self.dosed)
        share = torch.stack([shares(self.values[score, method, game])[player] for game in games]).double()

        steps = share.diff()
        values = {f"{score}_{method}_rise": slope(share, doses), f"{score}_{method}_step": float(steps.min())}

        if f"b_{score}" in data.arrays:
            places = [data.names.index(game) for game in games]
            drawn = shares(METHODS[method](data.table(f"b_{score}")[:, places]))[..., player]  # (resamples, games)
            ranks = [rank_correlation(row, doses) for row in drawn]
            values[f"{score}_{method}_spearman"] = sum(ranks) / len(ranks)
            deviation = drawn.diff(dim=-1).std(0).clamp(min=1e-6)
            values[f"{score}_{method}_resolution"] = float((steps / deviation).min())
        return values

    def pictures(self, data: Any) -> dict[str, Figure]:
        """Shares of all players in each game: the first score by each method, then the other scores' Shapley values."""
        if not self.values:
            return {}

        def rows(score: str, method: str) -> list[Tensor]:
            return [shares(self.values[score, method, game]) for game in data.names]

        panels = {f"{self.first}: {method}".replace("_", " "): rows(self.first, method) for method in self.methods}
        others = {f"{s}: Shapley".replace("_", " "): rows(s, "shapley") for s in data.scores if s != self.first}
        return {
            "attributions by method": draw_bars(panels, data.players, data.names),
            "attributions by score": draw_bars(others, data.players, data.names),
        }
