"""One grid for all arms that a main claim compares, judged on validation data of pilot seeds. Imports no torch.

    tune:
      arms: [student, continued]                        # what the main claim compares
      keys: [stages.students.module.optimizer.lr]       # what matters most: one number, wherever it stands
      values: [0.003, 0.01, 0.03, 0.1]
      by: val/top1                                      # of the last epoch; with lower_is_better: true, the smallest
      seeds: [1, 2]

A recipe in which there is nothing to tune says why: `tune: {none: "kernels in closed form"}`. The table that
`make tune` finds lies in results/tuning/<paper>/<setting>.json; registrations and records repeat it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from experiments.common import files
from experiments.common.errors import unknown
from experiments.common.plain import Plain
from experiments.config import written
from experiments.config.trials import Grid
from experiments.evidence import results

Scores = Mapping[str, Sequence[Sequence[float | None]]]  # arm -> value -> pilot seed -> score


class Best(TypedDict):
    """An arm's best value of the grid, None where it failed at each."""

    value: Any
    mean: float | None
    edge: bool  # it lies at an end of the grid
    means: list[float | None]  # of each value


class Tuning(TypedDict):
    """What registrations and records repeat of a tuning: the grid, and the best value of each arm."""

    arms: list[str]
    keys: list[str]
    values: list[Any]
    seeds: list[int]
    by: str
    chosen: dict[str, Best]


class Tuned(Tuning):
    """The table that `make tune` writes."""

    lower_is_better: bool
    scores: Scores
    at: str
    commit: str | None


class Untuned(TypedDict):
    """Why there is nothing to tune."""

    none: str


def read(config: Mapping[str, Any]) -> Grid | None:
    """The grid of a resolved configuration; None if its recipe says nothing. Raises InputError."""
    if not config.get("tune"):
        return None
    grid = written.read(Grid, config["tune"], "tune")
    for arm in grid.arms:
        if arm not in config["stages"]:
            raise unknown("tune.arms: stage", arm, config["stages"])
    return grid


def choose(grid: Grid, scores: Scores) -> dict[str, Best]:
    """For each arm the best value of the mean over pilot seeds, and whether it lies at the edge of the grid.

    An arm whose training failed at a value, or is not a number there, cannot be best there. Of equally good values, as
    where all are at the ceiling, it is the middle one.
    """
    chosen: dict[str, Best] = {}
    for arm, by_value in scores.items():
        means = [_mean(values) for values in by_value]
        trained = [index for index, mean in enumerate(means) if mean is not None]
        if not trained:
            chosen[arm] = {"value": None, "mean": None, "edge": False, "means": means}
            continue
        mean = (min if grid.lower_is_better else max)(means[index] or 0.0 for index in trained)
        equals = [index for index in trained if means[index] == mean]
        best = equals[(len(equals) - 1) // 2]
        edge = best in (0, len(means) - 1)
        chosen[arm] = {"value": grid.values[best], "mean": means[best], "edge": edge, "means": means}
    return chosen


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(finite) / len(finite) if len(finite) == len(values) and finite else None


def path(paper: str, setting: str) -> Path:
    return results.base() / "tuning" / paper / f"{setting}.json"


def write(paper: str, setting: str, table: Tuned) -> Path:
    place = path(paper, setting)
    place.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(place, table)
    return place


def stored(paper: str, setting: str) -> Plain | None:
    """The table that `make tune` wrote (Tuned), as it was read; None if it was never run."""
    table = files.read_json(path(paper, setting))
    return table if isinstance(table, dict) else None
