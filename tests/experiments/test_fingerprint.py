"""A fingerprint moves with what a result rests on, and with nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import fingerprint
from experiments.plan import Plan

CODE = '"""Docstring."""\nfrom modules.common import helper\n\n\ndef f(x):\n    """More."""\n    return x + 1  # why\n'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "modules" / "common").mkdir(parents=True)
    (tmp_path / "modules" / "paper.py").write_text(CODE)
    (tmp_path / "modules" / "common" / "helper.py").write_text("VALUE = 1\n")
    (tmp_path / "modules" / "common" / "other.py").write_text("VALUE = 1\n")
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    return tmp_path


def mark(config: dict[str, object] | None = None, seed: int = 0, needs: dict[str, list[str]] | None = None) -> str:
    fingerprint._parsed.cache_clear()
    return fingerprint.fingerprint({"_target_": "modules.paper.f", **(config or {})}, seed, needs or {})


def test_layout_comments_and_docstrings_do_not_count(project: Path) -> None:
    before = mark()
    (project / "modules" / "paper.py").write_text(
        "from modules.common import helper\n\ndef f( x ):\n\n    return (x + 1)   # another comment\n"
    )
    assert mark() == before


@pytest.mark.parametrize("file", ["paper.py", "common/helper.py"])
def test_statements_count_also_in_imported_files(project: Path, file: str) -> None:
    before = mark()
    path = project / "modules" / file
    path.write_text(path.read_text().replace("1", "2"))
    assert mark() != before


def test_a_file_that_is_not_imported_does_not_count(project: Path) -> None:
    before = mark()
    (project / "modules" / "common" / "other.py").write_text("VALUE = 2\n")
    assert mark() == before


def test_configuration_seed_and_predecessors_count(project: Path) -> None:
    marks = {mark(), mark({"lr": 1}), mark({"lr": 2}), mark(seed=1), mark(needs={"t": ["a"]}), mark(needs={"t": ["b"]})}
    assert len(marks) == 6


def test_where_data_lies_and_how_many_workers_read_it_do_not_count(project: Path) -> None:
    assert mark({"root": "a", "num_workers": 1, "about": "x"}) == mark({"root": "b", "num_workers": 2, "about": "y"})


def test_a_change_of_the_student_leaves_the_teachers_alone(make_plan: Callable[..., Plan]) -> None:
    before, after = make_plan().stages, make_plan("stages.student.module.hard_label_weight=1").stages
    changed = {name for name in before if before[name].fingerprint != after[name].fingerprint}
    assert changed == {"student"}


def test_a_change_of_a_teacher_reaches_all_that_stand_on_it(make_plan: Callable[..., Plan]) -> None:
    before, after = make_plan().stages, make_plan("stages.teacher_b.module.network.dropout=0.1").stages
    changed = {name for name in before if before[name].fingerprint != after[name].fingerprint}
    assert changed == {"teacher_b", "ensemble", "student", "soft", "student_wd", "student_untrained"}
