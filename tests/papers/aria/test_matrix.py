"""Cells, matrices and tables by hand, and by scikit-learn."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sklearn import metrics
from torch import Tensor, nn

from datamodules.common.loader import batch_type
from modules.aria.cells import COLUMNS, Source, interval, measure, resample, summarise
from modules.aria.matrix import Protocol, TransferMatrix, draw_matrix
from modules.common.detection import Detector

CELLS = torch.tensor([[90.0, 60.0], [50.0, 80.0]])


def test_the_matrix_by_hand() -> None:
    assert {name: float(value) for name, value in summarise(CELLS).items()} == {
        "diagonal": 85.0,
        "off_diagonal": 55.0,
        "gap": 30.0,
    }
    drawn = torch.stack([CELLS, CELLS - 10])
    assert summarise(drawn)["diagonal"].tolist() == [85, 75]
    holed = CELLS.clone()
    holed[0, 1] = torch.nan
    assert float(summarise(holed)["off_diagonal"]) == 50
    holes = torch.stack([holed, holed - 10])  # where a cell is missing in one draw it is in all
    assert summarise(holes)["off_diagonal"].tolist() == [50, 40]
    assert summarise(holes)["gap"].tolist() == [35, 35]
    with pytest.raises(ValueError, match="needs cells on its diagonal and beside it"):
        summarise(torch.tensor([[1.0]]))
    assert draw_matrix(holed, ["a", "b"], ["a", "b"], 2.0).axes


def test_a_cell_by_hand() -> None:
    """80 of 100 generated pictures found, 10 of 100 real ones called generated."""
    y = torch.tensor([1] * 100 + [0] * 100)
    score = torch.tensor([1.0] * 80 + [-1.0] * 20 + [1.0] * 10 + [-1.0] * 90)
    values = measure(score, y)
    assert values["accuracy"] == values["balanced_acc"] == pytest.approx(85)
    assert (values["acc_real"], values["acc_fake"], values["recall"]) == (90, 80, pytest.approx(80))
    assert values["precision"] == pytest.approx(88.889, abs=1e-3)
    assert values["f1"] == pytest.approx(84.211, abs=1e-3)
    assert values["auc"] == pytest.approx(0.85)


def test_a_cell_agrees_with_scikit_learn() -> None:
    source = torch.Generator().manual_seed(1)
    y = (torch.rand(300, generator=source) < 0.3).long()
    score = torch.randn(300, generator=source) + y + 40  # a sigmoid would be 1 for all of them
    score[:50] = score[50:100]  # ties
    score = score - 40.5
    called = (score > 0).long()
    values = measure(score, y)
    assert values["accuracy"] == pytest.approx(100 * metrics.accuracy_score(y, called))
    assert values["balanced_acc"] == pytest.approx(100 * metrics.balanced_accuracy_score(y, called))
    assert values["precision"] == pytest.approx(100 * metrics.precision_score(y, called), abs=1e-3)
    assert values["recall"] == pytest.approx(100 * metrics.recall_score(y, called), abs=1e-3)
    assert values["f1"] == pytest.approx(100 * metrics.f1_score(y, called), abs=1e-3)
    assert values["auc"] == pytest.approx(metrics.roc_auc_score(y, score), abs=1e-6)
    assert measure(100 + score, y)["auc"] == pytest.approx(metrics.roc_auc_score(y, score), abs=1e-6)
    assert measure(-score.abs() - 1, y)["precision"] == 0  # nothing is called generated
    assert measure(score[y == 1], y[y == 1]) == {"n_real": 0.0, "n_fake": float(y.sum())}


def test_bootstrap_intervals_have_the_binomials_width() -> None:
    """Half of 400 and 0.9 of 100: the standard error of a balanced accuracy is half that of two shares together."""
    right = torch.tensor([[0.0, 1.0] * 200 + [1.0] * 90 + [0.0] * 10])
    real = torch.arange(500) < 400
    drawn = resample(right, [Source("a", real, ~real)], draws=4000)
    assert drawn.shape == (4000, 1, 1)
    low, high = interval(drawn[:, 0, 0])
    error = 100 * (0.25 / 400 + 0.09 / 100) ** 0.5 / 2
    assert (high - low) / (2 * 1.96) == pytest.approx(error, rel=0.06)
    assert (high + low) / 2 == pytest.approx(70, abs=0.5)


def test_the_bootstrap_does_not_see_the_order_and_shares_the_real_pictures() -> None:
    source = torch.Generator().manual_seed(2)
    right = (torch.rand(2, 60, generator=source) < 0.7).float()
    real, one = torch.arange(60) < 20, (torch.arange(60) >= 20) & (torch.arange(60) < 40)
    two = ~real & ~one
    sources = [Source("one", real, one), Source("two", real, two)]
    order = torch.randperm(60, generator=source)
    moved = [Source(s.name, s.real[order], s.fake[order]) for s in sources]
    assert torch.equal(resample(right, sources, 50), resample(right[:, order], moved, 50))
    perfect = right.clone()
    perfect[:, ~real] = 1
    drawn = resample(perfect, sources, 50)
    assert torch.equal(drawn[:, :, 0], drawn[:, :, 1])
    assert bool(resample(right, [Source("none", real, torch.zeros(60, dtype=torch.bool))], 5).isnan().all())


def test_bad_input_is_named() -> None:
    detector = Detector(nn.Sequential(nn.Flatten(), nn.Linear(12, 1)))
    with pytest.raises(ValueError, match="expected one for each of 1 detectors"):
        TransferMatrix([detector], ["a", "b"])
    with pytest.raises(ValueError, match="sources='photo'"):
        TransferMatrix([detector], ["a"], sources="photo")
    with pytest.raises(ValueError, match="expected one for each of a"):
        TransferMatrix([detector], ["a"], tested=["b", "c"])


class Says(nn.Module):
    """A network that says of each picture what stands in its first value."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, x: Tensor) -> Tensor:
        return self.sign * x[:, 0, 0, :1]


@pytest.fixture
def test_on(tmp_path: Path) -> Callable[..., dict[str, float]]:
    """Test a protocol on (what Says sees, y, subset, category) rows; gives what is logged."""

    def test(stage: Protocol, rows: list[tuple[float, int, int, int]], **data: Any) -> dict[str, float]:
        logged: dict[str, float] = {}
        stage.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
        stage.log_dict = lambda values, **_: logged.update(values)  # type: ignore[method-assign]
        given = {"names": ("a", "b"), "subjects": ("cats", "dogs"), "seed": 3, **data}
        trainer = SimpleNamespace(datamodule=SimpleNamespace(**given), default_root_dir=str(tmp_path))
        stage._trainer = trainer  # type: ignore[assignment]
        said, *columns = (torch.tensor(column) for column in zip(*rows, strict=True))
        x = said.view(-1, 1, 1, 1).expand(-1, 3, 2, 2)
        make = batch_type(("x", "y", "subset", "category"))
        for part in torch.arange(len(rows)).split(3):
            stage.test_step(make(x[part], *(column[part] for column in columns)), 0)
        stage.on_test_epoch_end()
        return logged

    return test


ROWS = [(-1.0, 0, -1, 0), (1.0, 0, -1, 1), (1.0, 1, 0, 0), (1.0, 1, 0, 1), (-1.0, 1, 1, 0), (-1.0, 1, 1, 1)]


def test_a_constant_detector_is_at_chance_everywhere(test_on: Callable[..., dict[str, float]]) -> None:
    """It finds every generated picture: the share of them does not help, and its plain accuracy is that share."""
    rows = [(1.0, y, subset, 0) for y, subset in [(0, -1), (1, 0), (1, 0), (1, 0), (1, 1)]]
    stage = Protocol([Says(), Says()], ["a", "b"])
    logged = test_on(stage, rows)
    assert {value for name, value in logged.items() if "cell" in name} == {50.0}
    assert (logged["test/gap"], logged["test/fake_acc"], logged["test/real_acc"]) == (0, 100, 0)
    assert (logged["test/gap_low"], logged["test/gap_high"], logged["test/n"]) == (0, 0, 5)
    assert [row["accuracy"] for row in stage.table] == [75, 50, 75, 50]
    assert [row["auc"] for row in stage.table] == [0.5] * 4


def test_generators_against_generators_and_their_table(
    test_on: Callable[..., dict[str, float]], tmp_path: Path
) -> None:
    stage = Protocol([Says(), Says(-1)], ["a", "b"])
    logged = test_on(stage, ROWS, modes={"a": "T2I", "b": "IT2I"})
    cells = {name.removeprefix("test/cell_"): value for name, value in logged.items() if "cell_" in name}
    assert cells == {"a_a": 75, "a_b": 25, "b_a": 25, "b_b": 75}
    assert (logged["test/diagonal"], logged["test/off_diagonal"], logged["test/gap"]) == (75, 25, 50)
    assert (logged["test/best_other"], logged["test/recall"], logged["test/fake_acc"]) == (25, 100, 0)
    assert logged["test/precision"] == pytest.approx(100 * 2 / 3)
    assert (logged["test/acc_t2i"], logged["test/acc_it2i"]) == (50, 50)
    assert "test/acc" not in logged, "T2I and IT2I are not pooled"

    kept = stage.artifacts()["cells"].tobytes()
    assert (tmp_path / "cells.csv").read_bytes() == kept
    table = list(csv.DictReader(io.StringIO(kept.decode())))
    assert tuple(table[0]) == COLUMNS
    asked = "train_source,test_source,mode,category,n_real,n_fake,acc_real,acc_fake,balanced_acc,auc,seed"
    assert COLUMNS[:11] == tuple(asked.split(","))
    first = table[1]
    assert [first[name] for name in COLUMNS[:9]] == ["a", "b", "IT2I", "", "2", "2", "50", "0", "25"]
    assert first["seed"] == "3"
    assert stage.pictures(None).keys() == {"trained on against tested on"}


def test_the_other_mode_of_a_generator_is_the_diagonal(test_on: Callable[..., dict[str, float]]) -> None:
    logged = test_on(Protocol([Says(), Says(-1)], ["a", "b"], tested=["b", "a"]), ROWS)
    assert (logged["test/diagonal"], logged["test/off_diagonal"]) == (25, 75)


def test_categories_against_categories(test_on: Callable[..., dict[str, float]]) -> None:
    """Of generator a, real pictures and generated ones of a category belong together."""
    logged = test_on(Protocol([Says(), Says(-1)], ["cats", "dogs"], "category", generators=["a"]), ROWS)
    cells = {name.removeprefix("test/cell_"): value for name, value in logged.items() if "cell_" in name}
    assert cells == {"cats_cats": 100, "cats_dogs": 50, "dogs_cats": 0, "dogs_dogs": 50}
    named = SimpleNamespace(spec=SimpleNamespace(classes=("cats", "dogs")))
    assert test_on(Protocol([Says()], ["x"], "category", matrix=False), ROWS, subjects=None, source=named)


def test_one_detector_on_every_cell(test_on: Callable[..., dict[str, float]]) -> None:
    stage = Protocol([Says()], ["all"], "both", matrix=False)
    logged = test_on(stage, ROWS[:-1])  # b has no dogs
    cells = {name.removeprefix("test/cell_all_"): value for name, value in logged.items() if "cell_" in name}
    assert cells == {"a_cats": 100, "a_dogs": 50, "b_cats": 50}
    assert logged["test/acc"] == pytest.approx(200 / 3)
    assert "test/gap" not in logged
    assert [(row["test_source"], row["category"], row["n_fake"]) for row in stage.table][-1] == ("b", "dogs", 0)
    assert stage.artifacts()["cells"].tobytes().decode().splitlines()[-1] == "all,b,,dogs,1,0,,,,,3,,,,,,"
    (figure,) = stage.pictures(None).values()
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["all, a", "all, b"]
    assert [text.get_text() for text in axis.texts] == ["100", "50", "50"]
    with pytest.raises(ValueError, match="tested: 'c'"):
        test_on(Protocol([Says()], ["a"], tested=["c"]), ROWS)


def test_a_score_of_zero_calls_a_picture_real_in_cells_and_intervals(test_on: Callable[..., dict[str, float]]) -> None:
    rows = [(0.0, 0, -1, 0)] * 3 + [(1.0, 1, 0, 0)] * 3
    stage = Protocol([Says()], ["x"], matrix=False, generators=["a"])
    assert test_on(stage, rows)["test/cell_x_a"] == 100
    assert [(row["low"], row["high"]) for row in stage.table] == [(100, 100)]
    assert stage.spread == 0


def test_the_best_and_the_worst_cell_beside_the_diagonal(test_on: Callable[..., dict[str, float]]) -> None:
    """The first finds a and half of b, the second nothing; real pictures are right for both."""
    real = [(-1.0, 0, -1, 0)] * 4
    of_a, of_b = [(1.0, 1, 0, 0)] * 4, [(1.0, 1, 1, 0)] * 2 + [(-1.0, 1, 1, 0)] * 2
    stage = Protocol([Says(), Quiet()], ["a", "b"])
    logged = test_on(stage, real + of_a + of_b)
    assert (logged["test/best_other"], logged["test/worst_other"]) == (75, 50)
    (low, high) = next((row["low"], row["high"]) for row in stage.table if row["balanced_acc"] == 75)
    assert 50 <= low < 75 < high <= 100
    assert stage.spread == (high - low) / 2


class Quiet(nn.Module):
    """A network that calls nothing generated."""

    def forward(self, x: Tensor) -> Tensor:
        return -x[:, 0, 0, :1].abs()
