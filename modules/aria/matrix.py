"""The benchmark's protocols: finished detectors on all test sources, one matrix and one table each. Nothing is trained.

P1, P2  one detector for each generator, tested on each           sources="generator", the diagonal is P1
P3      one detector for each category, tested on each            sources="category"
P4      one detector trained on everything, tested on each cell   sources="both"
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics import CatMetric

from modules.aria.cells import Source, interval, measure, resample, summarise, to_csv
from modules.common.detection import EVERY, Detector, score_of
from modules.common.frozen import Frozen
from modules.common.metrics import compute_and_reset
from modules.common.module import StageModule

SOURCES = ("generator", "category", "both")
OWN = ("precision", "recall", "f1")  # logged as means over the diagonal


class Protocol(StageModule):
    """Tests networks on test sources.

    Test metrics, percent: cell_<trained>_<tested>, balanced accuracy; acc, its mean over all cells, fake_acc and
    real_acc, where T2I and IT2I are both tested acc_<mode> and fake_acc_<mode>. Of a matrix fake_acc and real_acc are
    those beside the diagonal, and there are diagonal, off_diagonal and gap with 95% bootstrap intervals over images
    (<name>_low, <name>_high), best_other and worst_other beside the diagonal, precision, recall and f1 on it. The table
    `cells.csv` in the stage's folder has everything of each cell, and is the artifact `cells` as bytes.

    Args:
        networks: pictures to (B, 1) or (B, 2), see score_of.
        names: what each was trained on.
        sources: "generator": its pictures and all real ones; "category": real and generated pictures of it; "both":
            real pictures of a category and one generator's of it.
        tested: the test sources, those that belong to `names` in their order first; None takes names where they are a
            matrix, else all that the data has.
        matrix: whether the first test sources are the training sources of `names`.
        generators: whose pictures count, by name; None takes all. T2I and IT2I are never to be pooled in one number.
    Raises:
        ValueError: another number of names than of networks, unknown `sources`, or fewer test sources than names.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        names: Sequence[str],
        sources: str = "generator",
        tested: Sequence[str] | None = None,
        matrix: bool = True,
        generators: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if sources not in SOURCES:
            raise ValueError(f"sources={sources!r}: expected one of {', '.join(SOURCES)}")
        if len(networks) != len(names):
            raise ValueError(f"names={list(names)}: expected one for each of {len(networks)} detectors")
        if matrix and tested is not None and len(tested) != len(names):
            raise ValueError(f"tested={list(tested)}: expected one for each of {', '.join(names)}")
        self.names = tuple(names)
        self.sources = sources
        self.matrix = matrix
        self.tested = tuple(tested) if tested is not None else self.names if matrix else None
        self.generators = None if generators is None else tuple(generators)
        self.frozen = Frozen(networks)
        self.rows = CatMetric(nan_strategy="error")
        self.cells: Tensor | None = None  # (D, S)
        self.spread = 0.0  # half the width of the widest interval of a cell, percent
        self.shown: tuple[str, ...] = ()
        self.table: list[dict[str, Any]] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen.on(x.device)[0](x)

    def scores(self, batch: Any) -> list[Tensor]:
        """What each network says of a batch, (B,) each; above 0 it calls a picture generated."""
        return [score_of(network(batch.x)) for network in self.frozen.on(self.device)]

    def test_step(self, batch: Any, batch_idx: int) -> None:
        scores = [score.double() for score in self.scores(batch)]
        about = [batch.y.double(), batch.subset.double(), batch.category.double()]
        self.rows.update(torch.stack([*scores, *about], 1))

    def on_test_epoch_end(self) -> None:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = compute_and_reset(self.rows).view(-1, len(self.names) + 3).cpu()
        *scores, y, subset, category = rows.unbind(1)
        sources = self.choose(data, y.long(), subset.long(), category.long())
        score = torch.stack(scores)  # (D, N)
        drawn = resample((score > 0) == (y > 0), sources)  # (R, D, S)

        self.cells = torch.full((len(self.names), len(sources)), torch.nan)
        self.table = []
        for i, name in enumerate(self.names):
            for j, source in enumerate(sources):
                chosen = source.real | source.fake
                values: dict[str, Any] = dict(measure(score[i, chosen], y[chosen]))
                if "balanced_acc" in values:
                    self.cells[i, j] = values["balanced_acc"]
                    values["low"], values["high"] = interval(drawn[:, i, j])
                    self.log(f"test/cell_{name}_{source.name}", values["balanced_acc"])
                about = {"train_source": name, "test_source": source.test_source, "mode": source.mode}
                counts = {key: int(values[key]) for key in ("n_real", "n_fake")}
                self.table.append({**about, "category": source.category, "seed": data.seed, **values, **counts})
        self.shown = tuple(source.name for source in sources)
        self.spread = max(((row["high"] - row["low"]) / 2 for row in self.table if "low" in row), default=0.0)
        self.log_dict({f"test/{name}": value for name, value in self.totals(drawn).items()})
        self.log("test/n", float(len(y)))

    def totals(self, drawn: Tensor) -> dict[str, float]:
        """What is logged of all cells together."""
        assert self.cells is not None
        rows = [row for row in self.table if "balanced_acc" in row]
        if not rows:
            raise ValueError("no test source has both real and generated pictures")
        values: dict[str, float] = {}
        modes = sorted({row["mode"] for row in rows})
        for mode in modes:
            ending = f"_{mode.lower()}" if len(modes) > 1 else ""
            of_mode = [row for row in rows if row["mode"] == mode]
            values[f"acc{ending}"] = _mean(of_mode, "balanced_acc")
            values[f"fake_acc{ending}"] = _mean(of_mode, "acc_fake")
        if self.matrix:
            size = len(self.shown)
            placed = [(divmod(place, size), row) for place, row in enumerate(self.table) if "balanced_acc" in row]
            own = [row for (i, j), row in placed if i == j]
            rows = [row for (i, j), row in placed if i != j]
            for name, whole in summarise(self.cells).items():
                low, high = interval(summarise(drawn)[name])
                values |= {name: float(whole), f"{name}_low": low, f"{name}_high": high}
            others = [row["balanced_acc"] for row in rows]
            values |= {"best_other": max(others), "worst_other": min(others)}
            values |= {name: _mean(own, name) for name in OWN}
            values["fake_acc"] = _mean(rows, "acc_fake")
        return {**values, "real_acc": _mean(rows, "acc_real")}

    def choose(self, data: Any, y: Tensor, subset: Tensor, category: Tensor) -> list[Source]:
        """The test sources among pictures (N,)."""
        names = tuple(data.names)
        wanted = [name for name in names if self.generators is None or name in self.generators]
        counted = torch.isin(subset, torch.tensor([names.index(name) for name in wanted]))
        modes: dict[str, str] = dict(getattr(data, "modes", {}))
        subjects = self.subjects(data)
        chosen = []
        for name in wanted if self.sources != "category" else [""]:
            of_generator = counted & ((subset == names.index(name)) if name else torch.ones_like(counted))
            for number, subject in enumerate(subjects) if self.sources != "generator" else [(EVERY, "")]:
                of_subject = (category == number) | torch.tensor(number == EVERY)
                real = (y == 0) & of_subject & ((subset == EVERY) | of_generator)
                fake = (y == 1) & of_subject & of_generator
                label = "_".join(part for part in (name, subject) if part)
                mode = modes.get(name) or "+".join(sorted({modes[n] for n in wanted if n in modes}))
                chosen.append(Source(label, real, fake, name or "all", mode, subject))
        there = {source.name: source for source in chosen}
        asked = self.tested if self.tested is not None else tuple(there)
        if unknown := [name for name in asked if name not in there]:
            raise ValueError(f"tested: {unknown[0]!r}: expected some of {', '.join(there)}")
        return [there[name] for name in asked]

    def subjects(self, data: Any) -> tuple[str, ...]:
        """Names of the categories, in the order of their numbers."""
        stated = getattr(data, "subjects", None) or data.source.spec.classes
        return tuple(stated)

    def artifacts(self) -> dict[str, np.ndarray]:
        """The table, as bytes of CSV; it is also written as cells.csv into the stage's folder."""
        if not self.table:
            return {}
        content = to_csv(self.table).encode()
        path = Path(self.trainer.default_root_dir) / "cells.csv"
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)
        return {"cells": np.frombuffer(content, dtype=np.uint8)}

    def pictures(self, data: Any) -> dict[str, Figure]:
        """The heat map; where a test source is a generator's pictures of a category, a row for each generator."""
        if self.cells is None:
            return {}
        if self.sources != "both":
            figure = draw_matrix(self.cells, self.names, self.shown, self.spread)
            return {"trained on against tested on": figure}
        lines = list(dict.fromkeys((row["train_source"], row["test_source"]) for row in self.table))
        columns = list(dict.fromkeys(row["category"] for row in self.table))
        grid = torch.full((len(lines), len(columns)), torch.nan)
        for row in self.table:
            place = lines.index((row["train_source"], row["test_source"])), columns.index(row["category"])
            grid[place] = row.get("balanced_acc", torch.nan)
        figure = draw_matrix(grid, [f"{trained}, {tested}" for trained, tested in lines], columns, self.spread)
        return {"generators and categories": figure}


class TransferMatrix(Protocol):
    """The networks of finished detectors, see Protocol.

    Args:
        detectors: the stages.
        names, sources, tested, matrix, generators: see Protocol.
    """

    def __init__(
        self,
        detectors: Sequence[Detector],
        names: Sequence[str],
        sources: str = "generator",
        tested: Sequence[str] | None = None,
        matrix: bool = True,
        generators: Sequence[str] | None = None,
    ) -> None:
        networks = [detector.network for detector in detectors]
        super().__init__(networks, names, sources, tested, matrix, generators)


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return sum(float(row[name]) for row in rows) / len(rows)


def draw_matrix(cells: Tensor, rows: Sequence[str], columns: Sequence[str], spread: float = 0.0) -> Figure:
    """Balanced accuracies (D, S) as a heat map with numbers; rows are training sources.

    Args:
        spread: half width of the widest cell's bootstrap interval, percent; 0 says nothing of it.
    """
    figure = Figure(figsize=(0.8 * len(columns) + 2, 0.6 * len(rows) + 2), layout="constrained")
    axis = figure.subplots()
    axis.imshow(cells.numpy(), vmin=50, vmax=100, cmap="viridis", aspect="auto")
    axis.set_xticks(range(len(columns)), columns, rotation=90 if len(columns) > 6 else 0)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xlabel("tested on")
    axis.set_ylabel("trained on")
    title = "balanced accuracy, %"
    axis.set_title(f"{title}; 95% intervals within {spread:.1f}" if spread else title, fontsize=8)
    for i, line in enumerate(cells.tolist()):
        for j, value in enumerate(line):
            if value == value:  # not NaN
                axis.text(j, i, f"{value:.0f}", ha="center", va="center", color="white" if value < 80 else "black")
    return figure
