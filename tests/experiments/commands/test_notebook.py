"""The notebook that newcomers begin with does what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from experiments.common.paths import ROOT


def test_every_cell_runs_and_none_keeps_an_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((ROOT / "start.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 4
    assert not [cell for cell in cells if cell["outputs"] or cell["execution_count"]]

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for cell in cells:
        code = "".join(cell["source"]).replace('"scale=smoke"', f'"scale=smoke", "runs_dir={tmp_path}"')
        exec(code, names)
    assert {outcome.status for outcome in names["outcomes"].values()} == {"done"}
    assert len(names["claim"].per_seed) == len(names["claim"].seeds)
    matplotlib.pyplot.close("all")
