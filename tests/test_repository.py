"""Rules of the repository that a reviewer would otherwise have to remember."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from pathlib import Path

import pytest

from experiments.compose import ROOT, papers

PYTHON = sorted(p for folder in ("experiments", "modules", "datamodules") for p in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_arrows_go_one_way(path: Path) -> None:
    """experiments -> modules, datamodules; a paper imports modules.common, never another paper; common no paper."""
    place, names = path.relative_to(ROOT).parts, imports(path)
    if place[0] in ("modules", "datamodules"):
        assert not {n for n in names if n.split(".")[0] == "experiments"}
    if place[0] == "datamodules":
        assert not {n for n in names if n.split(".")[0] == "modules"}
    if place[0] == "modules":
        assert all(n == "modules" or n.startswith("modules.common") for n in names if n.split(".")[0] == "modules")
    if place[0] == "experiments":
        assert not {
            n for n in names if n.split(".")[:1] == ["modules"] and n.split(".")[1:2] and n.split(".")[1] in papers()
        }


@pytest.mark.parametrize("path", PYTHON, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_paper_is_named_in_the_engine(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] == "experiments":
        tree = ast.parse(path.read_text(encoding="utf-8"))
        helps = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant)}
        literals = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in helps]
        assert not [text for text in literals if text in papers()]


def test_packages_that_are_known_to_be_hostile_stay_out() -> None:
    """Releases of the package `lightning` stole credentials; the framework comes as pytorch-lightning."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [*project["dependencies"], *(d for extra in project["optional-dependencies"].values() for d in extra)]
    names = {d.split(">")[0].split("<")[0].split("=")[0].strip() for d in named}
    assert "lightning" not in names
    assert not any(".".join(n.split(".")[:1]) == "lightning" for path in PYTHON for n in imports(path))


def test_no_build_needs_torch() -> None:
    """An isolated build would download it again."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
    assert not [r for r in build["requires"] if "torch" in r]


def test_what_is_tracked_is_small_and_complete() -> None:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    assert all(f.stat().st_size < 8e6 for f in files if f.exists())
    tracked = {f for f in files if f.exists()}
    assert {p for p in (ROOT / "conf").rglob("*.yaml")} <= tracked, "a configuration file is not committed"
