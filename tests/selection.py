"""`make test PAPER=K`: the tests of what a paper's files reach."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from experiments.common.paths import CONF, ROOT
from experiments.config import compose
from experiments.identity import dependencies
from experiments.identity.fingerprint import targets

SHARED = ("tests/modules/common", "tests/datamodules/common")
ALWAYS = ("tests/test_repository.py",)


def targets_of(paper: str) -> tuple[str, ...]:
    """Every target that a paper's files and the data they choose name, read without composing them."""
    contents = [compose.paper_file(paper), *compose.recipe_files(paper).values()]
    lines = [line for content in contents for line in _lines(content)]
    chosen = dict.fromkeys(line.partition("=")[2] for line in lines if line.lstrip("/").startswith("data@"))
    contents += [compose.load(compose.CONF / "data" / f"{name}.yaml") for name in chosen]
    named = {target for content in contents for target in targets(content)}
    named |= {name for line in lines for name in re.findall(r"(?:data)?modules\.[\w.]+", line)}
    return tuple(sorted(named))


def _lines(content: dict[str, Any]) -> list[str]:
    """What a file's defaults choose and its variants override, as key=value."""
    defaults = [item for item in content.get("defaults") or [] if isinstance(item, dict)]
    lines = [f"{key}={value}" for item in defaults for key, value in item.items()]
    return lines + [line for variant in (content.get("variants") or {}).values() for line in variant["overrides"]]


def select(items: list[pytest.Item], paper: str) -> list[pytest.Item]:
    """The tests that a change of a paper's files may break.

    Its own, what every paper is asked of this one, those of the parts of common that it reaches, and the rules of the
    repository.
    """
    reached = {definition.module for definition in dependencies.reach(targets_of(paper))}
    files = {item.path for item in items}
    concerned = {path for path in files if _concerns(path, paper, reached)}
    return [item for item in items if item.path in concerned or _is_asked_of(item, paper)]


def select_of_overlay(items: list[pytest.Item], paper: str | None) -> list[pytest.Item]:
    """The tests in the open overlay, and what every paper is asked of its papers; of one paper where one is named."""
    papers = [paper] if paper else [key for key in compose.papers() if not (CONF / "paper" / f"{key}.yaml").exists()]
    own = [item for item in items if not item.path.is_relative_to(ROOT)]
    if paper:
        own = [item for item in own if paper in item.path.parts or item.path.stem == f"test_{paper}"]
    asked = [item for item in items if item.path.is_relative_to(ROOT)]
    return own + [item for item in asked if any(_is_asked_of(item, key) for key in papers)]


def _concerns(path: Path, paper: str, reached: set[str]) -> bool:
    name = path.relative_to(ROOT).as_posix()
    if name in ALWAYS or paper in path.parts or path.stem == f"test_{paper}":
        return True
    return name.startswith(SHARED) and bool(_imports(path) & reached)


def _imports(path: Path) -> set[str]:
    """The modules that a test imports, and those that a name imported from a package may be."""
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
    return imported


def _is_asked_of(item: pytest.Item, paper: str) -> bool:
    """Whether a test that goes over papers is about this one."""
    call = getattr(item, "callspec", None)
    return call is not None and call.params.get("paper") == paper
