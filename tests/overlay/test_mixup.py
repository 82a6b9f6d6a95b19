"""The worked example of docs/own-paper.md, an overlay with one paper: its own tests, a smoke run, a registration."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from experiments.common.paths import ROOT
from experiments.config import unfilled
from tests.preloaded import server

EXAMPLE = Path(__file__).parent / "mine"


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example outside of the project, as a repository of its own."""
    folder = tmp_path_factory.mktemp("beside") / "mine"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    (folder / ".gitignore").write_text("/runs/\n/site/\n/results/here/\n__pycache__/\n")
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "mixup"]):
        subprocess.run(["git", *author, *words], cwd=folder, capture_output=True, check=True)
    return folder


def command(*arguments: str, code: int = 0) -> str:
    done = server().run(arguments, ROOT, {**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + (done.stderr if code == 2 else "")


def test_nothing_is_left_to_fill_in() -> None:
    files = unfilled.own_files(EXAMPLE, "mixup", "mini")
    assert len(files) == 6
    assert not unfilled.find(EXAMPLE, [*files, EXAMPLE / "conf/recipe/mixup/full.yaml"])


def test_its_own_tests_hold_and_every_paper_s_too(mine: Path) -> None:
    """As make test PAPER=mixup EXTRA=../mine runs them, but for the smoke run, which is the next test's."""
    options = ["-p", "no:cacheprovider", "-c", "pyproject.toml", "--rootdir", ".", "-m", "not slow"]
    told = command(
        *("pytest", *options, "--extra", str(mine), "--paper", "mixup"),
        *("-k", "not smoke", "tests/papers/test_every_paper.py", str(mine / "tests")),
    )
    assert "16 passed" in told


def test_the_smoke_run_judges_it_and_stays_in_its_folder(mine: Path) -> None:
    out = command("experiments.reproduce", f"extra={mine}", "paper=mixup", "scale=smoke", "jobs=1")
    assert "mixup makes a network more accurate than empirical risk minimisation" in out
    summary = json.loads((mine / "runs/mixup/smoke/summary.json").read_text())
    assert set(summary["stages"]) == {"mixup", "erm", "smoothed"}
    (claim,) = summary["claims"]
    assert [rival["name"] for rival in claim["against"]] == ["ERM", "label smoothing"]
    by_seed = [summary["stages"][name]["test/top1"] for name in ("mixup", "erm")]
    assert claim["per_seed"] == pytest.approx([a - b for a, b in zip(*by_seed, strict=True)])
    assert all(lesser > 0.1 for lesser in summary["stages"]["mixup"]["train/lesser"])
    assert not (ROOT / "runs/mixup").exists()


def test_a_registration_asks_for_tuning_first(mine: Path) -> None:
    told = command("experiments.commands.register", f"extra={mine}", "paper=mixup", code=2)
    assert "tune: was not run yet; make tune PAPER=mixup" in told
