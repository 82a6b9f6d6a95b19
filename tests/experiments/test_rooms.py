"""The rooms of experiments/: which of them may import which, and that each says what it is for."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from experiments.common.paths import ROOT

ROOMS = ("common", "identity", "config", "running", "evidence", "pages", "commands", "benchmarks")  # from the ground up
FLOOR = ROOT / "experiments"


def rooms_imported(path: Path) -> set[str]:
    """The rooms that a file imports from, also inside its functions."""
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        imported |= {name.split(".")[1] for name in names if name.startswith("experiments.")}
    return imported


def test_a_room_imports_those_below_it_alone() -> None:
    for height, room in enumerate(ROOMS):
        allowed = {*ROOMS[: height + 1]}
        for path in (FLOOR / room).rglob("*.py"):
            assert rooms_imported(path) <= allowed, path.relative_to(ROOT)


def test_no_two_files_import_each_other_in_a_circle() -> None:
    """Within a room too; imports inside functions count."""
    imports: dict[str, set[str]] = {}
    for path in FLOOR.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        imports[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("experiments"):
                imports[name] |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}

    def reached(name: str, seen: set[str]) -> set[str]:
        for other in imports[name] & set(imports) - seen:
            seen.add(other)
            reached(other, seen)
        return seen

    assert not [name for name in imports if name in reached(name, set())]


def test_every_folder_is_a_room_and_every_room_says_what_it_is_for() -> None:
    folders = {path.parent.name for path in FLOOR.glob("*/__init__.py")}
    assert folders == set(ROOMS)
    for room in ROOMS:
        assert "Door: " in (importlib.import_module(f"experiments.{room}").__doc__ or "")


@pytest.mark.parametrize("entry", ["run", "reproduce", "catalog"])
def test_what_python_m_starts_is_thin(entry: str) -> None:
    assert len((FLOOR / f"{entry}.py").read_text(encoding="utf-8").splitlines()) < 15
