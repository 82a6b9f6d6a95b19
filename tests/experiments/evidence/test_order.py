"""A registration comes before its results, shown by content: in real repositories of a few commits."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.evidence.order import History, losses, problems

FILE, RECORD = "results/registrations/k/mini-abc.yaml", "results/k.json"


def register(root: Path, text: str = "hash: abc\n") -> None:
    (root / FILE).parent.mkdir(parents=True, exist_ok=True)
    (root / FILE).write_text(text)


def look(root: Path, seeds: int) -> None:
    (root / RECORD).parent.mkdir(parents=True, exist_ok=True)
    entry = {"registered": {"hash": "abc"}, "seeds": list(range(seeds))}
    (root / RECORD).write_text(json.dumps({"entries": {"mini": entry}}))


def commit(git: Callable[..., str], message: str) -> str:
    git("add", "-A")
    git("commit", "-qm", message)
    return git("rev-parse", "HEAD")


def found(root: Path) -> list[str]:
    return list(problems(History(root), FILE, RECORD, "abc", "mini"))


def test_registered_then_recorded(tmp_path: Path, git: Callable[..., str]) -> None:
    register(tmp_path)
    commit(git, "registered")
    assert found(tmp_path) == []
    for seeds in (6, 8):
        look(tmp_path, seeds)
        commit(git, "recorded")
    assert found(tmp_path) == []


def test_both_in_one_commit_as_after_a_squash(tmp_path: Path, git: Callable[..., str]) -> None:
    register(tmp_path)
    look(tmp_path, 6)
    commit(git, "both")
    (problem,) = found(tmp_path)
    assert "registration and results alike" in problem


def test_recorded_then_registered(tmp_path: Path, git: Callable[..., str]) -> None:
    look(tmp_path, 6)
    commit(git, "recorded")
    register(tmp_path)
    commit(git, "registered")
    (problem,) = found(tmp_path)
    assert "do not follow the registration" in problem


def test_a_registration_that_was_changed_or_is_in_no_commit(tmp_path: Path, git: Callable[..., str]) -> None:
    register(tmp_path)
    assert found(tmp_path) == [f"{FILE} is in no commit"]
    commit(git, "registered")
    register(tmp_path, "hash: abc\nmargin: 0.5\n")
    commit(git, "another margin")
    look(tmp_path, 6)
    commit(git, "recorded")
    (problem,) = found(tmp_path)
    assert "was changed in" in problem


def test_a_rebase_and_a_merge_of_parallel_branches_keep_the_order(tmp_path: Path, git: Callable[..., str]) -> None:
    git("checkout", "-qb", "mine")
    register(tmp_path)
    commit(git, "registered")
    look(tmp_path, 6)
    commit(git, "recorded")
    git("checkout", "-q", "main")
    (tmp_path / "b").write_text("b")
    commit(git, "beside")
    git("checkout", "-q", "mine")
    git("rebase", "-q", "main")
    assert found(tmp_path) == []
    git("checkout", "-q", "main")
    (tmp_path / "c").write_text("c")
    commit(git, "beside again")
    git("merge", "-q", "--no-ff", "-m", "merged", "mine")
    assert found(tmp_path) == []


def test_results_that_came_on_a_branch_without_the_registration(tmp_path: Path, git: Callable[..., str]) -> None:
    git("checkout", "-qb", "runs")
    look(tmp_path, 6)
    commit(git, "recorded")
    git("checkout", "-q", "main")
    register(tmp_path)
    commit(git, "registered")
    git("merge", "-q", "--no-ff", "-m", "merged", "runs")
    (problem,) = found(tmp_path)
    assert "do not follow the registration" in problem


def test_a_shallow_clone_and_a_folder_without_history_say_that_they_cannot_tell(
    tmp_path: Path, git: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert History(tmp_path).unknown == "a history of one commit, as of a copy"
    (tmp_path / "c").write_text("c")
    commit(git, "a second one")
    assert History(tmp_path).unknown == ""
    bare = tmp_path_factory.mktemp("bare")
    assert History(bare).unknown == "not a git checkout"
    (tmp_path / "d").write_text("d")
    commit(git, "again")
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{tmp_path}", str(bare / "clone")], check=True)
    assert "shallow" in History(bare / "clone").unknown


PAST = {"registered": {"hash": "old", "stream": 1}, "seeds": [1, 2]}
REPLACED = {"registered": {"hash": "abc", "stream": 2}, "seeds": [7, 8]}


def record(root: Path, **changed: object) -> None:
    """A record of format 2 with one setting, two seeds and one earlier registration."""
    claim = {"main": True, "seeds": [7, 8], "per_seed": [1.0, 2.0]}
    entry = {"registered": {"hash": "abc", "stream": 2}, "seeds": [7, 8], "history": [PAST], "claims": [claim]}
    entries = {} if changed.get("gone") else {"mini": {**entry, **changed}}
    (root / RECORD).parent.mkdir(parents=True, exist_ok=True)
    (root / RECORD).write_text(json.dumps({"format": 2, "entries": entries}))


MORE = {"main": True, "seeds": [7, 8, 9], "per_seed": [1.0, 2.0, 3.0]}
OTHER = {"main": True, "seeds": [7, 8], "per_seed": [1.0, 2.5]}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seeds": [7, 8, 9], "claims": [MORE]}, ""),
        ({"history": []}, "registration old is gone from its history"),
        ({"gone": True}, "its record is gone"),
        ({"claims": [OTHER]}, "the recorded difference of seed 8 was 2.0, and is 2.5"),
        ({"registered": {"hash": "new", "stream": 3}}, "registration abc is gone from its history"),
        ({"registered": {"hash": "new", "stream": 3}, "claims": [OTHER], "history": [PAST, REPLACED]}, ""),
    ],
)
@pytest.mark.parametrize("committed", [True, False])
def test_what_a_record_held_stays(
    tmp_path: Path, git: Callable[..., str], changed: dict[str, object], told: str, committed: bool
) -> None:
    """In later commits, also after more of them, and in the file as it is."""
    record(tmp_path)
    commit(git, "recorded")
    record(tmp_path, **changed)
    if committed:
        commit(git, "changed")
    lines = list(losses(History(tmp_path), RECORD))
    assert [told in line for line in lines] == ([True] if told else [])


STAGE = {
    "metrics": ["test/top1", "val/nll"],
    "runs": {
        "7": {"fingerprint": "aa", "seconds": 3.0, "values": [50.0, 0.5]},
        "8": {"fingerprint": "ab", "seconds": 4.0, "values": [51.0, 0.6]},
    },
}
HERE = {"hardware": {"cpu": "x"}, "versions": {"torch": "2"}, "threads": 1, "code": {"commit": "c"}, "written": "t"}
Change = Callable[[dict[str, Any]], object]


def further(entry: dict[str, Any]) -> None:
    """A third seed, on another machine."""
    entry["seeds"].append(9)
    entry["stages"]["a"]["runs"]["9"] = {"fingerprint": "ac", "seconds": 5.0, "values": [52.0, 0.7]}
    entry["provenance"]["hardware"] = {"cpu": "y"}


def joined(entry: dict[str, Any], commits: str) -> None:
    """A stage that the main claim does not read, trained later for the same seeds."""
    entry["stages"]["b"] = STAGE
    entry["provenance"]["code"] = {"commit": commits}


def without_nll(entry: dict[str, Any]) -> None:
    """A metric taken away, for every seed."""
    stage = entry["stages"]["a"]
    stage["metrics"].remove("val/nll")
    for row in stage["runs"].values():
        row["values"].pop()


CHANGES: dict[str, tuple[Change, str]] = {
    "another seed": (further, ""),
    "a metric that no claim reads": (
        lambda e: e["stages"]["a"]["runs"]["8"]["values"].__setitem__(1, 0.1),
        "a/val/nll of seed 8 was 0.6, and is 0.1",
    ),
    "a metric taken away": (
        lambda e: (
            e["stages"]["a"]["metrics"].pop(),
            [row["values"].pop() for row in e["stages"]["a"]["runs"].values()],
        ),
        "a/val/nll of seed 7 was 0.5, and is None",
    ),
    "a seed of a stage taken away": (lambda e: e["stages"]["a"]["runs"].pop("7"), "a of seed 7 is gone"),
    "a stage taken away": (lambda e: e["stages"].pop("a"), "the stage a is gone"),
    "a fingerprint": (
        lambda e: e["stages"]["a"]["runs"]["7"].update(fingerprint="ff"),
        "the fingerprint of a of seed 7 was aa, and is ff",
    ),
    "a fingerprint of confirmed code": (
        lambda e: (
            e["stages"]["a"]["runs"]["7"].update(fingerprint="ff"),
            e.update(confirmed={"a": {"fingerprint": "ff"}}),
        ),
        "",
    ),
    "a time": (lambda e: e["stages"]["a"]["runs"]["7"].update(seconds=0.1), "a/seconds of seed 7 was 3.0, and is 0.1"),
    "the machine": (lambda e: e["provenance"].update(hardware={"cpu": "z"}), "its hardware was {'cpu': 'x'}, and is"),
    "the commit": (lambda e: e["provenance"].update(code={"commit": "d"}), "its code was {'commit': 'c'}, and is"),
    "a stage of another claim, by a later commit": (lambda e: joined(e, "c d"), ""),
    "a stage of another claim, whose commit is told alone": (lambda e: joined(e, "d"), "its code was {'commit': 'c'}"),
    "the day it was registered": (
        lambda e: e["registered"].update(at="2020-01-01"),
        "its registration's at was None, and is '2020-01-01'",
    ),
    "how it was registered": (lambda e: e["registered"].update(filed=True), "its registration's filed was None"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_record_says_of_a_seed_stays(tmp_path: Path, git: Callable[..., str], change: str) -> None:
    """Under the same registration nothing changes by itself, whether a claim reads it or not, however it is sealed."""
    entry = {"registered": {"hash": "abc", "stream": 2}, "seeds": [7, 8], "history": [], "claims": []}
    entry |= {"stages": {"a": STAGE}, "provenance": HERE}
    path = tmp_path / RECORD
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"format": 2, "entries": {"mini": entry}}))
    commit(git, "recorded")
    act, told = CHANGES[change]
    value = json.loads(path.read_text())
    act(value["entries"]["mini"])
    path.write_text(json.dumps(value))
    for committed in (False, True):
        if committed:
            commit(git, "changed")
        lines = list(losses(History(tmp_path), RECORD))
        assert [line for line in lines if told in line] if told else not lines, lines


def test_an_entry_recorded_anew_under_another_title_loses_the_one_that_stood_there(
    tmp_path: Path, git: Callable[..., str]
) -> None:
    path = tmp_path / RECORD
    path.parent.mkdir(parents=True)
    clean = {"registered": {"hash": "abc", "stream": 1}, "seeds": [7, 8], "history": [], "claims": []}
    noisy = {"registered": {"hash": "def", "stream": 1}, "seeds": [7, 8], "history": [], "claims": []}
    path.write_text(json.dumps({"format": 2, "entries": {"mini": noisy, "mini+clean": clean}}))
    commit(git, "recorded")
    path.write_text(json.dumps({"format": 2, "entries": {"mini": clean, "mini+clean": clean}}))
    (line,) = losses(History(tmp_path), RECORD)
    assert line.endswith("mini: registration def is gone from its history")


def test_a_commit_is_missing_unless_its_full_hash_led_here(tmp_path: Path, git: Callable[..., str]) -> None:
    head = git("rev-parse", "HEAD")
    tree = git("rev-parse", "HEAD^{tree}")
    dropped = git("commit-tree", tree, "-m", "of a branch that was made anew")
    asked = [head, tree, dropped, "0" * 40, head[:12], "main", "--all", ""]
    assert History(tmp_path).missing(asked) == {*asked[1:]}
    assert History(tmp_path).missing([]) == set()
