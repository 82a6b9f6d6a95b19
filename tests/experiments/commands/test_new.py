"""`make new`: what it writes runs, is in the suite's style, and cannot be registered before it is filled in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiments.commands import new
from experiments.common.errors import InputError
from experiments.common.paths import ROOT
from experiments.config import schema, unfilled
from experiments.config.written import read
from tests.preloaded import server

WORDS = {"paper": "two_words", "arxiv": "1710.09412", "title": "mixup: Beyond Empirical Risk Minimization"}
ASK = ("experiments.commands.new", "paper=two_words", "arxiv=1710.09412")


def git(root: Path, *words: str) -> None:
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *author, *words], cwd=root, capture_output=True, check=True)


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This project as a repository of its own, without its tests and records."""
    root = tmp_path_factory.mktemp("copy")
    for folder in ("conf", "experiments", "modules", "datamodules"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "tests/papers").mkdir(parents=True)
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / ".gitignore").write_text("runs/\n__pycache__/\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "start")
    return root


def command(root: Path, *arguments: str, code: int = 0, **more: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), **more}
    done = server().run(arguments, root, environment)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + (done.stderr if code == 2 else "")


def listed(root: Path) -> list[str]:
    """What is there that git does not know."""
    told = subprocess.run(
        ["git", "status", "--porcelain", "-uall"], cwd=root, capture_output=True, text=True, check=True
    )
    return told.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["arxiv=1710.09412"], "paper is missing; expected it, as in paper=mixup"),
        (["paper=mine"], "arxiv is missing; expected it, as in arxiv=1710.09412"),
        (["paper=meal_v2", "arxiv=1710.09412"], "paper=meal_v2: there is such a paper (conf/paper/meal_v2.yaml)"),
        (["paper=Mixup", "arxiv=1710.09412"], "paper='Mixup': expected a name of small letters, digits and _"),
        (["paper=../x", "arxiv=1710.09412"], "paper='../x': expected a name of small letters"),
        (["paper=class", "arxiv=1710.09412"], "paper=class: this word means something else"),
        (["paper=common", "arxiv=1710.09412"], "paper=common: this word means something else"),
        (["paper=mine", "arxiv=1710"], "arxiv='1710': expected a text that is an arXiv number, as in \"1710.09412\""),
        (["paper=mine", "arxiv=1710.09412", "titel=x"], "argument 'titel' does not exist; did you mean 'title'?"),
        (["paper=mine", "arxiv=1710.09412", 'title=a"""b'], "expected one line of at most 300 letters"),
        (["paper=mine", "arxiv=1710.09412", "title=\x1b[2J"], "expected one line of at most 300 letters"),
    ],
)
def test_wrong_input_ends_in_one_line_and_nothing_is_written(copied: Path, words: list[str], told: str) -> None:
    before = listed(copied)
    out = command(copied, "experiments.commands.new", *words, code=2)
    assert told in out
    assert len(out.splitlines()) == 1
    assert listed(copied) == before


def test_a_room_that_is_half_there_and_a_folder_that_git_does_not_know_are_refused(copied: Path) -> None:
    room = copied / "modules/half.py"
    room.write_text("")
    told = command(copied, "experiments.commands.new", "paper=half", "arxiv=1710.09412", code=2)
    room.unlink()
    assert "modules/half.py: exists; expected a key of which nothing is there" in told
    assert "not a git checkout with a commit" in command(copied, *ASK, code=2, GIT_DIR=str(copied / "nothing"))
    assert not listed(copied)


def test_all_is_written_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = new.render(WORDS)
    rename = os.rename

    def full_at_the_third(source: Path, target: Path) -> None:
        if target.name == "two_words.py":
            raise OSError(28, "No space left on device", str(source), None, str(target))
        rename(source, target)

    monkeypatch.setattr(new.os, "rename", full_at_the_third)
    with pytest.raises(InputError, match=r"two_words\.py: No space left on device; nothing was written"):
        new.place(texts, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    monkeypatch.setattr(new.os, "rename", rename)
    new.place(texts, tmp_path)
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == set(texts)


@pytest.mark.parametrize(
    "title", ["Short", "Ends itself.", "Of 80%: \u00fcber 'alles' # {no} ${key} " + "long words " * 20]
)
def test_a_title_is_the_same_in_the_file_whatever_it_holds(title: str) -> None:
    texts = new.render({**WORDS, "title": title.strip()})
    paper = yaml.safe_load(texts["conf/paper/two_words.yaml"])
    assert paper["title"] == title.strip()
    read(schema.PaperFile, paper, "conf/paper/two_words.yaml", later=True)
    docstring = texts["modules/two_words.py"].split('"""')[1].split("\n\n")[0]
    assert docstring.replace("\n", " ").rstrip(".") == title.strip().rstrip(".")


def test_what_is_written_runs_and_binds_only_once_it_is_filled_in(copied: Path) -> None:
    """Style, tests and the smoke run as they are; the refusal; and the next question once nothing is left to say."""
    out = command(copied, *ASK, "title=A title")
    assert "written: modules/two_words.py" in out
    (count,) = re.findall(r"(\d+) places are left to fill in", out)
    rooms = ["modules/two_words.py", "tests/papers/two_words", "conf/paper/two_words.yaml", "conf/recipe/two_words"]

    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "modules/two_words.py", "tests/papers"],
            cwd=copied,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
    assert all(len(line) <= 120 for name in new.render(WORDS).values() for line in name.splitlines())

    tests = ("pytest", "-q", "-p", "no:cacheprovider", "tests/papers/two_words")
    assert "8 passed" in command(copied, *tests)
    smoke = command(copied, "experiments.reproduce", "paper=two_words", "scale=smoke", "jobs=1")
    assert "FILL IN: the sentence" in smoke

    told = command(copied, "experiments.commands.register", "paper=two_words", code=2)
    assert "places are left to fill in, and a registration fixes what they say" in told
    assert "claims.0.name" in told
    assert "tests/papers/two_words/test_module.py: line " in told
    assert "full.yaml" not in told
    assert int(count) == len(re.findall(r"line \d+", told)) + 2  # full.yaml's two, which mini does not rest on

    for room in rooms:
        for path in [copied / room, *(copied / room).rglob("*.*")]:
            if path.is_file():
                path.write_text(path.read_text().replace(unfilled.MARK, "Said:"))
    told = command(copied, "experiments.commands.register", "paper=two_words", code=2)
    assert "tune: was not run yet; make tune PAPER=two_words comes before a registration" in told
