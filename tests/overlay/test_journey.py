"""The whole way with an overlay, in a copy of the suite: register, record, an own arm, check, verify, trust."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from experiments.common.paths import ROOT
from tests.overlay.conftest import git, make_overlay
from tests.preloaded import server

pytestmark = pytest.mark.slow

ARM = """\
like: arm_2
about: a wider learner
module: {network: {widths: [4]}}
claim:
  name: a wider learner is better than arm 2
  better: wider/test/top1
  than: arm_2/test/top1
  worth: 1
  worth_reason: a toy
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The suite as a repository of its own: registering asks for what it rests on to be committed."""
    root = tmp_path_factory.mktemp("suite")
    for folder in ("conf", "experiments", "modules", "datamodules"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "results").mkdir()
    shutil.copy(ROOT / "results" / "rotnet.json", root / "results")
    for name in ("CITATION.cff", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, root)
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "The suite")
    return root


def run(root: Path, *words: str, code: int = 0) -> str:
    """What a command prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)}
    done = server().run(words, root, environment)
    assert done.returncode == code, done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).split())


def test_from_a_folder_to_a_verdict_that_somebody_else_takes_in(suite: Path, tmp_path: Path) -> None:
    mine = make_overlay(tmp_path / "mine")
    (mine / "conf" / "arms" / "toy").mkdir(parents=True)
    (mine / "conf" / "arms" / "toy" / "wider.yaml").write_text(ARM, encoding="utf-8")
    extra = f"extra={mine}"
    before = {path: path.read_bytes() for path in (suite / "results").rglob("*") if path.is_file()}

    told = run(suite, "experiments.commands.register", "paper=toy", extra, code=2)
    assert "conf/arms/ is not committed" in told or "conf/ is not committed" in told
    git(mine, "add", ".")
    git(mine, "commit", "--quiet", "-m", "An arm")

    for setting, words in (("mini", []), ("mini+wider", ["variant=wider"])):
        run(suite, "experiments.commands.register", "paper=toy", *words, extra)
        (path,) = (mine / "results" / "registrations" / "toy").glob(f"{setting}-*.yaml")
        text = path.read_text(encoding="utf-8")
        assert f"suite: {git(suite, 'rev-parse', 'HEAD')}" in text
        assert f"overlay: {git(mine, 'rev-parse', 'HEAD~1')}" in text
        run(suite, "experiments.reproduce", "paper=toy", *words, "jobs=1", extra)
        git(mine, "add", "results")
        git(mine, "commit", "--quiet", "-m", f"Toy, {setting}")

    record = json.loads((mine / "results" / "toy.json").read_text(encoding="utf-8"))
    assert set(record["entries"]) == {"mini", "mini+wider"}
    assert set(record["entries"]["mini+wider"]["stages"]) == {"maker", "arm_2", "wider"}

    assert "2 entries of 1 papers re-derived, 0 differences" in run(
        suite, "experiments.commands.check_results", "--require-history", extra
    )
    run(suite, "experiments.commands.report", "toy", extra)
    assert "make reproduce PAPER=toy" in (mine / "site" / "toy.html").read_text(encoding="utf-8")

    verified = run(suite, "experiments.commands.verify", f"folder={mine}", "--require-history", "list=true")
    assert "none of its code ran" in verified
    assert verified.count("code and recipe are those recorded") == 2
    trusted = run(suite, "experiments.commands.verify", f"folder={mine}", "trust=true", "jobs=1")
    assert trusted.count("numbers of seed") == 2

    assert {path: path.read_bytes() for path in before} == before
    assert git(suite, "status", "--porcelain") == "?? results/overlays/"
