"""The table U: what every coalition of every game is worth, by FID and by other similarities.

    U(S) = -FID(originals, images of S),     or the mean over images of a pairwise similarity

An image is paired with the original whose relief and class it was made with: number i with original i mod N. As
published, U(none) is the base model alone; no coalition is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from modules.common.fid import frechet_distance
from modules.common.frozen import Frozen
from modules.common.module import StageModule
from modules.copyscope.scores import PIXEL_SCORES, fuse, part_similarity
from modules.copyscope.workflow import coalition_name


class Moments:
    """Mean and covariance of features (n, d), float64.

    With fewer features than dimensions the covariance is rank-deficient; with one there is none.

    Raises:
        ValueError: fewer than two images, of which no covariance exists.
    """

    def __init__(self, features: Tensor) -> None:
        if len(features) < 2:
            raise ValueError(f"{len(features)} images: expected at least 2, the covariance of one does not exist")
        x = features.double()
        self.mean = x.mean(0)
        self.covariance = (x - self.mean).T @ (x - self.mean) / (len(x) - 1)

    def distance(self, other: Moments) -> float:
        """FID."""
        return float(frechet_distance(self.mean, self.covariance, other.mean, other.covariance))

    def mean_term(self, other: Moments) -> float:
        """|m1 - m2|^2, FID's first part."""
        return float((self.mean - other.mean).square().sum())


def principal_axes(features: Tensor, dimensions: int) -> Tensor:
    """The directions of largest variance of features (n, d), (d, dimensions) float64.

    Raises:
        ValueError: fewer features than dimensions.
    """
    if min(features.shape) < dimensions:
        raise ValueError(f"dimensions={dimensions}: expected at most {min(features.shape)}, the features' rank")
    x = features.double()
    return torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:dimensions].T


class Table(StageModule):
    """Scores the images of all coalitions. Nothing is trained.

    The attribution is fed with u_<score> (games, 2^N) for each score: `fid` and the extractor's suffix, the same with
    `_others` against another artist's originals where there are any, the pixel scores and `fusion`; the same from
    resampled images as b_<score> (resamples, games, 2^N) where asked for; `names` and `players`. Runs in one process: a
    stage's configuration says `trainer: {devices: 1, strategy: auto}`.

    Test metrics: fid<suffix>_<coalition>_<game> in its own units, less is nearer; mean_term_<game>, |m1 - m2|^2 of the
    whole workflow; n, images.

    Args:
        extractor: the stage that describes images.
        players: names, from bit 0 on.
        dimensions: of the features, reduced on the data's `reference`, or all images where it has none; None
            keeps all.
        resamples: how often images are drawn anew, the same for all coalitions and the originals.
        seed: of these draws.
    """

    def __init__(
        self,
        extractor: Any,
        players: list[str],
        dimensions: int | None = None,
        resamples: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.extractor = Frozen([extractor])
        self.players, self.dimensions, self.resamples, self.seed = list(players), dimensions, resamples, seed
        self.rows: dict[str, list[Tensor]] = {}
        self.arrays: dict[str, np.ndarray] = {}

    def forward(self, x: Tensor) -> Tensor:
        (extractor,) = self.extractor.on(x.device)
        return extractor(x)

    def on_test_epoch_start(self) -> None:
        self.rows = {}
        self.originals = self.trainer.datamodule.originals()  # type: ignore[attr-defined]

    def test_step(self, batch: Any, batch_idx: int) -> None:
        (extractor,) = self.extractor.on(batch.x.device)
        features, style = extractor.describe(batch.x)
        partner = self.originals[batch.row % len(self.originals)]
        values = {name: score(batch.x, partner) for name, score in PIXEL_SCORES.items()}
        values["part"] = part_similarity(batch.x, partner)
        for name, rows in {**values, "features": features, "style": style, "set": batch.set}.items():
            self.rows.setdefault(name, []).append(rows.cpu())

    def on_test_epoch_end(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = {name: torch.cat(parts) for name, parts in self.rows.items()}
        self.rows = {}
        sets = {key: (rows["set"] == number).nonzero().flatten() for key, number in data.sets.items()}
        features = self.reduce(rows["features"], sets)

        first = sets["originals"]
        partner = first[data.rows % len(first)]
        rows["style"] = F.cosine_similarity(rows["style"], rows["style"][partner], dim=1)
        generated = rows["set"] >= min(data.where.values())
        rows["fusion"] = torch.zeros(len(generated), dtype=torch.float64)
        parts = torch.stack([rows[name][generated].double() for name in ("ssim", "style", "part")], dim=1)
        rows["fusion"][generated] = fuse(parts)

        self.tabulate(data, features, rows, sets)
        metrics = {f"test/{name}": value for name, value in self.report(data, features, sets).items()}
        self.log_dict({**metrics, "test/n": float(len(data.images))})

    def reduce(self, features: Tensor, sets: dict[Any, Tensor]) -> Tensor:
        """The features on their principal axes among real images."""
        if self.dimensions is None:
            return features
        basis = features[sets["reference"]] if "reference" in sets else features
        return features.double() @ principal_axes(basis, self.dimensions)

    @property
    def fid(self) -> str:
        """Name of the first score: plain `fid` means Inception-v3."""
        return f"fid{self.extractor.networks[0].suffix}"

    def tabulate(self, data: Any, features: Tensor, rows: dict[str, Tensor], sets: dict[Any, Tensor]) -> None:
        """Fill `arrays`."""
        numbers = {number: key for key, number in data.sets.items()}
        keys = {place: numbers[number] for place, number in data.where.items()}  # (game, coalition) -> set
        size = 1 << len(self.players)
        targets = {self.fid: "originals"} | ({f"{self.fid}_others": "others"} if "others" in sets else {})
        source = torch.Generator().manual_seed(self.seed)

        def worth(drawn: Any) -> dict[str, dict[Any, float]]:
            """score -> set -> U, of the rows that `drawn` takes from a set's."""
            values: dict[str, dict[Any, float]] = {}
            moments = {key: Moments(features[drawn(sets[key])]) for key in set(keys.values())}
            for score, target in targets.items():
                real = Moments(features[drawn(sets[target])])
                values[score] = {key: -real.distance(made) for key, made in moments.items()}
            for score in (*PIXEL_SCORES, "fusion"):
                values[score] = {key: float(rows[score][drawn(sets[key])].double().mean()) for key in moments}
            return values

        def table(values: dict[Any, float]) -> np.ndarray:
            return np.array([[values[keys[game, c]] for c in range(size)] for game in data.names])

        whole = worth(lambda members: members)
        self.arrays = {f"u_{score}": table(values) for score, values in whole.items()}
        drawn_tables: dict[str, list[np.ndarray]] = {score: [] for score in whole}
        for _ in range(self.resamples):
            drawn = torch.rand(max(map(len, sets.values())), generator=source)
            again = worth(lambda members: members[(drawn[: len(members)] * len(members)).long()])  # noqa: B023
            for score, values in again.items():
                drawn_tables[score].append(table(values))
        if self.resamples:
            self.arrays |= {f"b_{score}": np.stack(tables) for score, tables in drawn_tables.items()}
        self.arrays |= {"names": np.array(data.names), "players": np.array(self.players)}

    def report(self, data: Any, features: Tensor, sets: dict[Any, Tensor]) -> dict[str, float]:
        """The table of FIDs in their own units, and the mean term of each whole workflow."""
        values = {}
        everybody = (1 << len(self.players)) - 1
        for row, game in zip(self.arrays[f"u_{self.fid}"], data.names, strict=True):
            for coalition, u in enumerate(row):
                values[f"{self.fid}_{coalition_name(coalition, self.players)}_{game}"] = -float(u)
        numbers = {number: key for key, number in data.sets.items()}
        real = Moments(features[sets["originals"]])
        for game in data.names:
            made = Moments(features[sets[numbers[data.where[game, everybody]]]])
            values[f"mean_term_{game}"] = real.mean_term(made)
        return values

    def artifacts(self) -> dict[str, np.ndarray]:
        return self.arrays
