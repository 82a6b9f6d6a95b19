"""`make new`: what it writes runs, is in the suite's style, and cannot be registered before it is filled in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from experiments.commands import writing
from experiments.common.errors import InputError
from experiments.common.paths import ROOT
from experiments.config import unfilled
from tests.preloaded import server

ASK = ("experiments.commands.new", "paper=two_words", "arxiv=1710.09412")


def git(root: Path, *words: str) -> None:
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *author, *words], cwd=root, capture_output=True, check=True)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


@pytest.fixture
def copied(repository: Path) -> Iterator[Path]:
    """The repository, and what a test wrote into it taken away again."""
    yield repository
    git(repository, "clean", "-fdqx")


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
    texts = writing.paper("two_words", "1710.09412", "A title", tmp_path)
    rename = os.rename

    def full_at_the_third(source: Path, target: Path) -> None:
        if target.name == "two_words.py":
            raise OSError(28, "No space left on device", str(source), None, str(target))
        rename(source, target)

    monkeypatch.setattr(writing.os, "rename", full_at_the_third)
    with pytest.raises(InputError, match=r"two_words\.py: No space left on device; nothing was written"):
        writing.place(texts, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    monkeypatch.setattr(writing.os, "rename", rename)
    writing.place(texts, tmp_path)
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == set(texts)


@pytest.mark.parametrize(
    "title", ["Short", "Ends itself.", "Of 80%: \u00fcber 'alles' # {no} ${key} " + "long words " * 20]
)
def test_a_title_is_the_same_in_the_file_whatever_it_holds(title: str) -> None:
    texts = writing.paper("two_words", "1710.09412", title.strip(), ROOT)
    paper = yaml.safe_load(texts["conf/paper/two_words.yaml"])
    assert paper["title"] == title.strip()
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
    files = [path for room in rooms for path in (copied / room, *(copied / room).rglob("*.*")) if path.is_file()]
    assert len(files) == 7
    assert all(len(line) <= 120 for path in files for line in path.read_text().splitlines())

    tests = ("pytest", "-p", "no:cacheprovider", "tests/papers/two_words")
    assert "8 passed" in command(copied, *tests)
    smoke = command(copied, "experiments.reproduce", "paper=two_words", "scale=smoke", "jobs=1")
    assert "FILL IN: the sentence" in smoke

    told = command(copied, "experiments.commands.register", "paper=two_words", code=2)
    assert "places are left to fill in, and a registration fixes what they say" in told
    assert "claims.0.name" in told
    assert "tests/papers/two_words/test_module.py: line " in told
    assert "full.yaml" not in told
    assert int(count) == len(re.findall(r"line \d+", told)) + 2  # full.yaml's two, which mini does not rest on

    for path in files:
        path.write_text(path.read_text().replace(unfilled.MARK, "Said:"))
    told = command(copied, "experiments.commands.register", "paper=two_words", code=2)
    assert "tune: was not run yet; make tune PAPER=two_words comes before a registration" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: a\nallow:\n", "name: a\nallow:\n  - a.modules.b.C\n"),
        ("name: a\nallow: [] # whole names\n", "name: a\nallow: # whole names\n  - a.modules.b.C\n"),
        ("allow: # these\n- a.modules.x.Y\nname: a\n", "allow: # these\n- a.modules.b.C\n- a.modules.x.Y\nname: a\n"),
        ("name: a\n", "name: a\nallow:\n  - a.modules.b.C\n"),
        ("allow:\n  - a.modules.b.C\n", "allow:\n  - a.modules.b.C\n"),
    ],
)
def test_a_name_is_allowed_where_the_others_stand(text: str, told: str) -> None:
    assert writing.allow(text, "a.modules.b.C") == told


def test_a_list_that_no_name_can_be_put_into_is_told() -> None:
    with pytest.raises(InputError, match=r"overlay\.yaml: allow: expected one name a line, so that a\.b can be put in"):
        writing.allow("allow: [a.modules.x.Y]\n", "a.b")


NAMED = {f"GIT_{who}_{what}": "a" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
UNNAMED = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"} | {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "user.useConfigOnly",  # else git makes a name of the machine's
    "GIT_CONFIG_VALUE_0": "true",
}
OVERLAY = ("experiments.commands.new", "paper=two_words", "arxiv=1710.09412", "title=A title")


def test_a_folder_of_one_s_own_becomes_a_repository_with_a_first_commit(copied: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    before = listed(copied)
    out = command(copied, *OVERLAY, f"extra={mine}", **NAMED)
    assert f"make reproduce PAPER=two_words SCALE=smoke EXTRA={mine}" in out
    assert not listed(mine)
    names = subprocess.run(["git", "ls-files"], cwd=mine, capture_output=True, text=True, check=True).stdout.split()
    assert {".gitignore", "overlay.yaml", "modules/two_words.py", "conf/paper/two_words.yaml"} <= set(names)
    assert yaml.safe_load((mine / "overlay.yaml").read_text())["allow"] == ["mine.modules.two_words.TwoWords"]
    assert "from mine.modules.two_words import" in (mine / "tests/papers/two_words/test_module.py").read_text()
    assert "FILL IN: the sentence" in command(copied, "experiments.catalog", f"extra={mine}", "two_words")

    out = command(copied, "experiments.commands.new", "paper=more", "arxiv=1710.09412", f"extra={mine}")
    assert f"git should know of it: git -C {mine} add ." in out
    allowed = ["mine.modules.more.More", "mine.modules.two_words.TwoWords"]
    assert yaml.safe_load((mine / "overlay.yaml").read_text())["allow"] == allowed
    told = command(copied, *OVERLAY, f"extra={mine}", code=2)
    assert "paper=two_words: there is such a paper" in told
    assert listed(copied) == before


def test_a_folder_without_a_paper_is_an_overlay_that_opens(copied: Path, tmp_path: Path) -> None:
    mine = tmp_path / "beside"
    command(copied, "experiments.commands.new", f"extra={mine}", "name=mine", **NAMED)
    assert yaml.safe_load((mine / "overlay.yaml").read_text())["name"] == "mine"
    assert "0 differences" in command(copied, "experiments.commands.check_results", f"extra={mine}")


@pytest.mark.parametrize(
    ("folder", "words", "environment", "told"),
    [
        ("no/mine", [], NAMED, "expected a folder beside"),
        ("My-Folder", [], NAMED, "expected small letters, digits and _, as in name: mine"),
        ("My Folder", ["name=mine"], NAMED, "expected a path of letters, digits and . _ + - alone"),
        ("torch", [], NAMED, "name=torch: a package has this name"),
        ("mine", ["paper=meal_v2"], NAMED, "paper=meal_v2: there is such a paper"),
        ("taken", [], NAMED, "taken/overlay.yaml: no such file"),
        ("mine", [], UNNAMED, "git is not installed or knows no author"),
    ],
)
def test_a_folder_that_cannot_be_one_leaves_nothing(
    copied: Path, tmp_path: Path, folder: str, words: list[str], environment: dict[str, str], told: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").write_text("something else")
    out = command(copied, *OVERLAY, *words, f"extra={tmp_path / folder}", code=2, **environment)
    assert told in out
    assert len(out.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
