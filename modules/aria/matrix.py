"""Generator against generator: detectors trained on one source each, tested on all sources."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from modules.common.detection import DetectionScores, Detector, score_of
from modules.common.frozen import Frozen
from modules.common.module import StageModule

Cells = Mapping[str, Mapping[str, float]]  # trained on -> tested on -> balanced accuracy, percent


def summarise(cells: Cells) -> dict[str, float]:
    """Mean of the cells whose training and test source are one, mean of the others, their difference, and the extremes
    of the others.

    Raises:
        ValueError: no cell of either kind.
    """
    own = [value for row, line in cells.items() for column, value in line.items() if row == column]
    others = [value for row, line in cells.items() for column, value in line.items() if row != column]
    if not own or not others:
        raise ValueError("a matrix needs cells on its diagonal and beside it")
    diagonal, off_diagonal = math.fsum(own) / len(own), math.fsum(others) / len(others)
    return {
        "diagonal": diagonal,
        "off_diagonal": off_diagonal,
        "gap": diagonal - off_diagonal,
        "best_other": max(others),
        "worst_other": min(others),
    }


class TransferMatrix(StageModule):
    """Tests finished detectors on all generators' pictures; nothing is trained.

    Test metrics, in percent of balanced accuracy: cell_<trained>_<tested>; those of `summarise`; real_acc and fake_acc,
    the means over the cells beside the diagonal; n.

    Args:
        detectors: the stages.
        names: what each was trained on, in their order.
        by: "generator", or "category": real and generated pictures of one category are then a test source.
    Raises:
        ValueError: another number of names than of detectors, or another `by`.
    """

    def __init__(self, detectors: Sequence[Detector], names: Sequence[str], by: str = "generator") -> None:
        super().__init__()
        if by not in ("generator", "category"):
            raise ValueError(f"by={by!r}: expected generator or category")
        self.by = by
        if len(detectors) != len(names):
            raise ValueError(f"names={list(names)}: expected one for each of {len(detectors)} detectors")
        self.names = tuple(names)
        self.frozen = Frozen([detector.network for detector in detectors])
        self.scores: list[DetectionScores] = []
        self.cells: dict[str, dict[str, float]] = {}

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen.on(x.device)[0](x)

    def tested(self) -> tuple[str, ...]:
        """Names of the test sources."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        return tuple(data.names if self.by == "generator" else data.subjects)

    def on_test_epoch_start(self) -> None:
        self.scores = [DetectionScores(self.tested()).to(self.device) for _ in self.names]

    def test_step(self, batch: Any, batch_idx: int) -> None:
        subset = batch.subset if self.by == "generator" else batch.category
        for network, scores in zip(self.frozen.on(self.device), self.scores, strict=True):
            scores.update(score_of(network(batch.x)), batch.y, subset)

    def on_test_epoch_end(self) -> None:
        tested = self.tested()
        values = [scores.compute() for scores in self.scores]
        self.scores = []
        self.cells = {
            row: {name: line[f"acc_{name}"] for name in tested} for row, line in zip(self.names, values, strict=True)
        }
        for row, line in self.cells.items():
            self.log_dict({f"test/cell_{row}_{column}": value for column, value in line.items()})
        self.log_dict({f"test/{name}": value for name, value in summarise(self.cells).items()})
        beside = [
            line[f"fake_acc_{name}"]
            for row, line in zip(self.names, values, strict=True)
            for name in tested
            if name != row
        ]
        self.log("test/fake_acc", math.fsum(beside) / len(beside))
        self.log("test/real_acc", math.fsum(line["real_acc"] for line in values) / len(values))
        self.log("test/n", values[0]["n"])

    def pictures(self, data: Any) -> dict[str, Figure]:
        """The matrix."""
        return {"trained on against tested on": draw_matrix(self.cells)} if self.cells else {}


def draw_matrix(cells: Cells) -> Figure:
    """Balanced accuracies as a heat map with numbers; rows are training sources."""
    rows, columns = list(cells), list(next(iter(cells.values())))
    values = torch.tensor([[cells[row][column] for column in columns] for row in rows])
    figure = Figure(figsize=(1.1 * len(columns) + 1.5, 0.8 * len(rows) + 1.2), layout="constrained")
    axis = figure.subplots()
    axis.imshow(values.numpy(), vmin=50, vmax=100, cmap="viridis")
    axis.set_xticks(range(len(columns)), columns)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xlabel("tested on")
    axis.set_ylabel("trained on")
    for i, line in enumerate(values.tolist()):
        for j, value in enumerate(line):
            axis.text(j, i, f"{value:.0f}", ha="center", va="center", color="white" if value < 80 else "black")
    return figure
