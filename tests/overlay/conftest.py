"""An overlay for tests: the toy paper (tests/toy) in a folder of its own, with a repository of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from experiments.common.overlay import make_current
from tests.toy_paper import PLACES, TOY

ALLOWED = ("modules.toy.Maker", "modules.toy.Learner", "modules.toy.Golden", "datamodules.toy.Relabelled")


def git(folder: Path, *words: str) -> str:
    """A git command in a folder; what it prints."""
    named = ("-c", "user.name=A Reader", "-c", "user.email=reader@example.org")
    done = subprocess.run(["git", *named, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def make_overlay(folder: Path) -> Path:
    """The toy paper as an overlay named mine, committed."""
    for name, places in PLACES.items():
        for place in places:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            text = (TOY / name).read_text(encoding="utf-8")
            text = text.replace("_target_: modules.toy", "_target_: mine.modules.toy")
            text = text.replace("_target_: datamodules.toy", "_target_: mine.datamodules.toy")
            (folder / place).write_text(text, encoding="utf-8")
    allowed = "".join(f"  - mine.{name}\n" for name in ALLOWED)
    (folder / "overlay.yaml").write_text(f"name: mine\nabout: a toy of the tests\nallow:\n{allowed}", encoding="utf-8")
    (folder / ".gitignore").write_text("runs/\nsite/\nresults/here/\n__pycache__/\n", encoding="utf-8")
    git(folder, "init", "--quiet")
    git(folder, "config", "user.name", "A Reader")
    git(folder, "config", "user.email", "reader@example.org")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "A toy paper")
    return folder


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """A fresh overlay; whatever a test opened is closed after it."""
    yield make_overlay(tmp_path / "mine")
    make_current(None)


@pytest.fixture
def changed(mine: Path) -> Callable[[str, str, str], Path]:
    """Replaces a text in a file of the overlay."""

    def change(name: str, old: str, new: str) -> Path:
        path = mine / name
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
        return mine

    return change
