"""With and without each component, on noise of its own: the table that the paper validates its values by.

    effect_i = mean over batches of FID(without i) - FID(with all)

This is leave-one-out on other images, and no yardstick for Shapley values; it is shown beside them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from modules.common.frozen import Frozen
from modules.common.module import StageModule
from modules.copyscope.table import Moments, principal_axes


class Ablation(StageModule):
    """FIDs of the whole workflow and of the workflow without each player. Nothing is trained.

    The attribution is fed with `effects` (N,). Runs in one process: a stage's configuration says
    `trainer: {devices: 1, strategy: auto}`.

    Test metrics: `with` and `without_<player>`, mean FID over batches in the extractor's features; n, images.

    Args:
        extractor: the stage that describes images.
        players: names, from bit 0 on.
        dimensions: see Table.
        batches: the images of each arm are cut into so many.
    """

    def __init__(self, extractor: Any, players: list[str], dimensions: int | None = None, batches: int = 1) -> None:
        super().__init__()
        self.extractor = Frozen([extractor])
        self.players, self.dimensions, self.batches = list(players), dimensions, batches
        self.features: list[Tensor] = []
        self.sets: list[Tensor] = []
        self.arrays: dict[str, np.ndarray] = {}

    def forward(self, x: Tensor) -> Tensor:
        (extractor,) = self.extractor.on(x.device)
        return extractor.describe(x)[0]

    def on_test_epoch_start(self) -> None:
        self.features, self.sets = [], []

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.features.append(self(batch.x).cpu())
        self.sets.append(batch.set.cpu())

    def on_test_epoch_end(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        features, sets = torch.cat(self.features), torch.cat(self.sets)
        self.features, self.sets = [], []
        if self.dimensions is not None:
            basis = features[sets == data.sets["reference"]] if "reference" in data.sets else features
            features = features.double() @ principal_axes(basis, self.dimensions)

        real = Moments(features[sets == data.sets["originals"]])
        (game,) = data.names
        everybody = (1 << len(self.players)) - 1

        def fid(coalition: int) -> float:
            made = features[sets == data.where[game, coalition]]
            return float(np.mean([real.distance(Moments(part)) for part in made.chunk(self.batches)]))

        whole = fid(everybody)
        without = [fid(everybody ^ (1 << i)) for i in range(len(self.players))]
        self.arrays = {"effects": np.array(without) - whole}
        metrics = {"with": whole, **{f"without_{p}": v for p, v in zip(self.players, without, strict=True)}}
        self.log_dict({f"test/{name}": value for name, value in metrics.items()})
        self.log("test/n", float(len(data.images)))

    def artifacts(self) -> dict[str, np.ndarray]:
        return self.arrays
