"""Answers that are remembered until a file changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.common import memory


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project of two files that nothing is remembered of."""
    for name in ("conf/config.yaml", "experiments/a.py", "modules/b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    monkeypatch.setattr(memory, "REMEMBERED", tmp_path / "runs" / "remembered.json")
    memory._marks.cache_clear()
    yield tmp_path
    memory._marks.cache_clear()  # else the tests that follow would remember things of this project


def ask(asked: list[str], key: str, folders: tuple[str, ...], question: str = "size", paper: str = "ours") -> str:
    memory._marks.cache_clear()  # as in another process

    def answer() -> str:
        asked.append(key)
        return f"of {key}"

    return str(memory.remember(question, paper, key, folders, answer))


def test_what_was_answered_is_not_asked_again(project: Path) -> None:
    asked: list[str] = []
    for _ in range(2):
        assert ask(asked, "x", memory.CONFIGURATION) == "of x"
        assert ask(asked, "y", memory.CONFIGURATION) == "of y"
        assert ask(asked, "x", memory.EVERYTHING, "weight") == "of x"
    assert asked == ["x", "y", "x"]


def test_a_changed_file_is_noticed_by_those_it_concerns(project: Path) -> None:
    asked: list[str] = []
    ask(asked, "x", memory.CONFIGURATION)
    ask(asked, "x", memory.EVERYTHING, "weight")
    (project / "modules" / "b.py").write_text("2")
    ask(asked, "x", memory.CONFIGURATION)
    assert len(asked) == 2
    ask(asked, "x", memory.EVERYTHING, "weight")
    assert len(asked) == 3
    (project / "conf" / "new.yaml").write_text("")
    ask(asked, "x", memory.CONFIGURATION)
    ask(asked, "x", memory.EVERYTHING, "weight")
    assert len(asked) == 5


@pytest.mark.parametrize(
    ("changed", "asked_again"),
    [
        ("conf/paper/ours.yaml", True),
        ("conf/recipe/ours/mini.yaml", True),
        ("modules/ours/module.py", True),
        ("modules/common/loss.py", True),
        ("conf/data/theirs/set.yaml", True),
        ("conf/paper/theirs.yaml", False),
        ("conf/recipe/theirs/mini.yaml", False),
        ("modules/theirs.py", False),
        ("datamodules/theirs/set.py", False),
    ],
)
def test_other_papers_own_files_concern_nobody_else(project: Path, changed: str, asked_again: bool) -> None:
    for name in ("conf/paper/ours.yaml", "conf/paper/theirs.yaml", changed):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text("1")
    asked: list[str] = []
    ask(asked, "x", memory.EVERYTHING)
    (project / changed).write_text("2")
    ask(asked, "x", memory.EVERYTHING)
    assert len(asked) == 1 + asked_again


def test_what_an_answer_remembers_meanwhile_is_kept(project: Path) -> None:
    asked: list[str] = []
    memory.remember("a", "ours", "1", memory.EVERYTHING, lambda: ask(asked, "inner", memory.EVERYTHING, "a"))
    ask(asked, "inner", memory.EVERYTHING, "a")
    assert asked == ["inner"]


def test_a_damaged_memory_only_answers_more_slowly(project: Path) -> None:
    asked: list[str] = []
    ask(asked, "x", memory.CONFIGURATION)
    memory.REMEMBERED.write_text("{")
    assert ask(asked, "x", memory.CONFIGURATION) == "of x"
    assert asked == ["x", "x"]


@pytest.mark.parametrize("text", ["[1]", "5", "null", '{"size of ours": 5}', '{"size of ours": {"answers": 3}}', "{"])
def test_a_file_of_answers_that_is_something_else_is_asked_past(project: Path, text: str) -> None:
    memory.REMEMBERED.parent.mkdir(parents=True)
    memory.REMEMBERED.write_text(text)
    asked: list[str] = []
    for _ in range(2):
        assert ask(asked, "x", memory.CONFIGURATION) == "of x"
    assert asked == ["x"]
