"""A fingerprint moves with what a result rests on, and with nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from experiments.common.paths import ROOT
from experiments.identity import definitions, dependencies, fingerprint
from experiments.running.plan import Plan

PAPER = '''"""Docstring."""
from modules.common import helper
from modules.common.tools import scaled as enlarge


FACTOR = 2


def f(x: helper.Kind = helper.START) -> int:
    """More."""
    return enlarge(x) + FACTOR  # why


class Other:
    pass
'''
HELPER = "START = 1\nUNUSED = 3\n\n\nclass Kind:\n    pass\n"
TOOLS = "def scaled(x):\n    return [unused for unused in range(x)]\n\n\ndef unused():\n    pass\n"


@pytest.fixture
def _apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read of another folder's code is kept apart from what was read of this project's, which stays known."""
    read = {
        definitions: ("read_module", "locate", "attribute"),
        dependencies: ("content", "_run_on_import", "reach", "identity"),
    }
    for module, names in read.items():
        for name in names:
            monkeypatch.setattr(module, name, cache(getattr(module, name).__wrapped__))


@pytest.fixture
def project(_apart: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "modules" / "common").mkdir(parents=True)
    (tmp_path / "modules" / "paper.py").write_text(PAPER)
    (tmp_path / "modules" / "common" / "helper.py").write_text(HELPER)
    (tmp_path / "modules" / "common" / "tools.py").write_text(TOOLS)
    monkeypatch.setattr(definitions, "ROOT", tmp_path)
    return tmp_path


def mark(
    config: dict[str, object] | None = None,
    seed: int = 0,
    needs: dict[str, list[str]] | None = None,
    target: str = "modules.paper.f",
) -> str:
    dependencies.forget()
    return fingerprint.fingerprint({"_target_": target, **(config or {})}, seed, needs or {})


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_exactly_what_is_mentioned_is_reached(project: Path) -> None:
    reached = {f"{d.module}.{d.name}" for d in dependencies.reach(("modules.paper.f",))}
    names = ["paper.FACTOR", "paper.f", "common.helper.START", "common.tools.scaled"]
    assert reached == {f"modules.{name}" for name in names}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("paper.py", '"""More."""\n    return enlarge(x) + FACTOR  # why', "return (enlarge( x ) + FACTOR)"),
        ("paper.py", "x: helper.Kind", "x: int"),
        ("paper.py", "class Other:", "class Another:"),
        ("common/helper.py", "UNUSED = 3", "UNUSED = 4\nMORE = 1"),
        ("common/helper.py", "    pass", "    value = 1"),  # of an annotation alone
        ("common/tools.py", "def unused():\n    pass", "def unused():\n    return 1\n\n\ndef added():\n    return 2"),
    ],
)
def test_what_is_not_reached_does_not_count(project: Path, file: str, old: str, new: str) -> None:
    before = mark()
    edit(project / "modules" / file, old, new)
    assert mark() == before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("paper.py", "+ FACTOR", "- FACTOR"),
        ("paper.py", "FACTOR = 2", "FACTOR = 3"),
        ("paper.py", "helper.START", "helper.UNUSED"),
        ("paper.py", "\n\ndef f(", "\n\n@enlarge\ndef f("),
        ("common/helper.py", "START = 1", "START = 2"),
        ("common/tools.py", "range(x)", "range(2 * x)"),
        ("common/tools.py", "def scaled(x)", "def scaled(x, y=unused)"),
        ("common/tools.py", "def unused():\n    pass", "print(unused)\n\n\ndef unused():\n    pass"),  # runs on import
        ("paper.py", "from modules.common.tools import scaled", "from modules.common.helper import START"),
        ("paper.py", "from modules.common.tools import scaled", "from math import sqrt"),
    ],
)
def test_what_is_reached_counts(project: Path, file: str, old: str, new: str) -> None:
    before = mark()
    edit(project / "modules" / file, old, new)
    assert mark() != before


def test_moving_a_definition_changes_nothing(project: Path) -> None:
    before = mark()
    edit(project / "modules" / "common" / "tools.py", TOOLS, "def unused():\n    pass\n")
    (project / "modules" / "rooms").mkdir()
    (project / "modules" / "rooms" / "new.py").write_text(
        "def scaled(x):\n    return [unused for unused in range(x)]\n"
    )
    edit(
        project / "modules" / "paper.py",
        "from modules.common.tools import scaled as enlarge",
        "import modules.rooms.new",
    )
    edit(project / "modules" / "paper.py", "enlarge(x)", "modules.rooms.new.scaled(x)")
    assert mark() == before
    (project / "modules" / "paper").mkdir()
    (project / "modules" / "paper.py").rename(project / "modules" / "paper" / "module.py")
    assert mark(target="modules.paper.module.f") == before


def test_a_module_used_as_a_whole_counts_whole(project: Path) -> None:
    edit(project / "modules" / "paper.py", "enlarge(x)", "getattr(helper, 'START')")
    before = mark()
    edit(project / "modules" / "common" / "helper.py", "UNUSED = 3", "UNUSED = 4")
    assert mark() != before


def test_configuration_seed_and_predecessors_count(project: Path) -> None:
    marks = {mark(), mark({"lr": 1}), mark({"lr": 2}), mark(seed=1), mark(needs={"t": ["a"]}), mark(needs={"t": ["b"]})}
    assert len(marks) == 6


def test_where_data_lies_and_how_many_workers_read_it_do_not_count(project: Path) -> None:
    assert mark({"root": "a", "num_workers": 1, "about": "x"}) == mark({"root": "b", "num_workers": 2, "about": "y"})


def test_the_rules_of_the_engine_count(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = mark()
    monkeypatch.setattr(fingerprint, "ENGINE", fingerprint.ENGINE + 1)
    assert mark() != before


def test_a_change_of_the_student_leaves_the_teachers_alone(make_plan: Callable[..., Plan]) -> None:
    before, after = make_plan().stages, make_plan("stages.student.module.labels.hard=1").stages
    changed = {name for name in before if before[name].fingerprint != after[name].fingerprint}
    assert changed == {"student"}


def test_a_change_of_a_teacher_reaches_all_that_stand_on_it(make_plan: Callable[..., Plan]) -> None:
    before, after = make_plan().stages, make_plan("stages.teacher_b.module.network.dropout=0.1").stages
    changed = {name for name in before if before[name].fingerprint != after[name].fingerprint}
    assert changed == {"teacher_b", "ensemble", "student", "soft", "student_wd", "student_untrained"}


def test_the_decided_precision_counts(make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.running import devices

    here = make_plan("trainer=auto")
    monkeypatch.setattr(devices, "gpus", lambda: 1)
    there = make_plan("trainer=auto")
    assert {s.trainer["precision"] for s in there.stages.values()} == {"bf16-mixed"}
    assert all(here.stages[n].fingerprint != there.stages[n].fingerprint for n in here.stages)


@pytest.fixture
def copied(_apart: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This project's own code in a folder where it may be edited."""
    for folder in definitions.FIRST_PARTY:
        ignored = shutil.ignore_patterns("assets", "__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    monkeypatch.setattr(definitions, "ROOT", tmp_path)
    return tmp_path


Targets = dict[str, tuple[str, ...]]


@pytest.fixture(scope="module")
def before(every_target: Targets) -> dict[str, str]:
    """paper -> the identity of its code, before any of it is edited."""
    return {paper: dependencies.identity(targets) for paper, targets in every_target.items()}


def test_an_unused_function_in_any_file_changes_no_paper(
    before: dict[str, str], copied: Path, every_target: Targets
) -> None:
    for folder in definitions.FIRST_PARTY:
        for path in (copied / folder).rglob("*.py"):
            path.write_text(path.read_text() + "\n\ndef _nobody_calls_this(x):\n    return x\n")
    dependencies.forget()
    assert {paper: dependencies.identity(targets) for paper, targets in every_target.items()} == before


def test_editing_cosine_changes_exactly_its_users(before: dict[str, str], copied: Path, every_target: Targets) -> None:
    edit(copied / "modules" / "common" / "schedules.py", "def cosine(", "def cosine(new_argument, ")
    dependencies.forget()
    changed = {paper for paper, targets in every_target.items() if dependencies.identity(targets) != before[paper]}
    users = {paper for paper, targets in every_target.items() if any(t.endswith("schedules.cosine") for t in targets)}
    mentioned = {
        path.name for path in (copied / "modules").rglob("*.py") if "schedules import cosine" in path.read_text()
    }
    assert changed == users
    assert not mentioned, "a module calls cosine itself: count its papers as users too"
