"""A commit that no clone has is told with one that has its code, and excused nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.common.errors import InputError
from experiments.evidence import lost_commits, results
from experiments.evidence.lost_commits import Lost
from experiments.evidence.order import History


def dropped(git: Callable[..., str], root: Path, file: str, text: str) -> str:
    """A commit with a file changed, on no branch."""
    git("checkout", "-q", "--detach")
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(text)
    git("add", "-A")
    git("commit", "-qm", "dropped")
    commit = git("rev-parse", "HEAD")
    git("checkout", "-q", "main")
    return commit


def told(root: Path, commit: str, same_code: str, *named: str) -> list[str]:
    item = Lost(commit=commit, same_code=same_code, why="dropped")
    return list(lost_commits.problems({commit: item}, named, History(root)))


def test_a_lost_commit_has_the_code_of_its_stand_in(tmp_path: Path, git: Callable[..., str]) -> None:
    head = git("rev-parse", "HEAD")
    record = dropped(git, tmp_path, "results/k.json", "{}")
    code = dropped(git, tmp_path, "a", "b")
    nowhere = "0123456789" * 4

    def line(commit: str, problem: str) -> list[str]:
        return [f"lost_commits.yaml: {commit[:12]}: {problem}"]

    assert told(tmp_path, record, head, record) == []
    assert told(tmp_path, nowhere, head, nowhere) == []  # as in a fresh clone
    assert told(tmp_path, code, head, code) == line(code, f"same_code: {head[:12]} has other code")
    assert told(tmp_path, record, code, record) == line(
        record, f"same_code: the commit {code[:12]} is not in the history"
    )
    assert told(tmp_path, record, head) == line(record, "no record names it")
    assert told(tmp_path, head, head, head) == line(head, "the history has it")


def test_the_list_is_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "base", lambda: tmp_path)
    assert lost_commits.read() == {}
    path = tmp_path / "lost_commits.yaml"
    path.write_text("- {commit: a, same_code: b, why: c}\n")
    assert lost_commits.read() == {"a": Lost(commit="a", same_code="b", why="c")}
    path.write_text("- {commit: a, same: b, why: c}\n")
    with pytest.raises(InputError, match="0: key 'same' does not exist; did you mean 'same_code'"):
        lost_commits.read()
