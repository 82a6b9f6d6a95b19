"""Rules of the repository that a reviewer would otherwise have to remember."""

from __future__ import annotations

import ast
import subprocess
import tomllib
from pathlib import Path

import pytest

from experiments.common.paths import ROOT
from experiments.config import own_data
from experiments.config.compose import paper_file, papers
from experiments.evidence import results
from experiments.identity import definitions, dependencies
from experiments.identity.definitions import Definition

PYTHON = sorted(p for folder in ("experiments", "modules", "datamodules") for p in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> set[str]:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return imported


def room(name: str) -> str | None:
    """The room under modules/ or datamodules/ that a dotted name lies in: a paper's key or common."""
    parts = name.split(".")
    return parts[1] if parts[0] in definitions.FIRST_PARTY and len(parts) > 1 else None


def test_arrows_go_one_way() -> None:
    """experiments -> modules, datamodules; a paper imports common, never another paper; common no paper."""
    keys = set(papers())
    wrong = {str(path.relative_to(ROOT)): arrows for path in PYTHON if (arrows := wrong_arrows(path, keys))}
    assert not wrong


def wrong_arrows(path: Path, keys: set[str]) -> set[str]:
    """The names that a file may not import."""
    folder, here = path.relative_to(ROOT).parts[:2]
    names = imports(path)
    if folder == "experiments":
        return {name for name in names if room(name) in keys}
    allowed = {None, "common", *({here.removesuffix(".py")} & keys)}
    wrong = {name for name in names if name.split(".")[0] == "experiments" or room(name) not in allowed}
    if folder == "datamodules":
        wrong |= {name for name in names if name.split(".")[0] == "modules"}
    return wrong


def test_every_room_is_a_paper_or_common() -> None:
    for folder in definitions.FIRST_PARTY:
        rooms = {
            p.relative_to(ROOT / folder).parts[0].removesuffix(".py") for p in PYTHON if (ROOT / folder) in p.parents
        }
        assert rooms - {"__init__", "common"} <= set(papers())


def test_configuration_builds_things_of_the_papers_own_room_and_of_common(
    every_target: dict[str, tuple[str, ...]],
) -> None:
    others = {
        f"{paper}: {target}"
        for paper, targets in every_target.items()
        for target in targets
        if room(target) not in (None, "common", paper)
    }
    assert not others


# Parts of common that one paper uses so far -> the next paper that will.
EXPECTED = {}


def test_common_holds_what_two_papers_use(every_target: dict[str, tuple[str, ...]]) -> None:
    """Classes and functions of common by the papers that reach them; what the engine itself uses stays too."""
    users: dict[Definition, set[str]] = {}
    for paper, targets in every_target.items():
        beside_them = [f"{target.rpartition('.')[0]}.NEEDS" for target in targets]
        for definition in dependencies.reach((*targets, *beside_them)):
            users.setdefault(definition, set()).add(paper)
    lonely = []
    engine = {n for path in PYTHON if path.is_relative_to(ROOT / "experiments") for n in imports(path)}
    engine |= {f"{d.module}.{d.name}" for d in dependencies.reach(own_data.PLAIN)}  # what a user's images may be
    for path in PYTHON:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if room(name) != "common" or path.name == "__init__.py":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        defined = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
        public = {n for n in defined if not n.startswith("_") and not _only_a_type(defined[n])}
        known = {n for n in public if f"{name}.{n}" in EXPECTED or f"{name}.{n}" in engine}
        beside = {d.name for n in known for d in dependencies.reach((f"{name}.{n}",)) if d.module == name}
        for unit in public - beside:
            served = users.get(Definition(name, unit), set())
            if len(served) < 2:
                lonely.append(f"{name}.{unit} serves {', '.join(served) or 'nobody'}")
    assert not lonely, "these belong into a paper's own room"
    for part, key in EXPECTED.items():
        assert key not in papers() or len(users.get(definitions.locate(part), set())) > 1, f"{key} does not use {part}"


def _only_a_type(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases)


@pytest.mark.parametrize("paper", papers())
def test_a_finding_was_written_for_the_verdicts_that_are_recorded(paper: str) -> None:
    """A verdict that changes asks for the sentence to be read again, and for what it was written for to follow."""
    mains = {name: entry.main_claim() for name, entry in results.entries(paper).items() if entry.seeds}
    recorded = {name: main.verdict for name, main in mains.items() if main is not None}
    finding = paper_file(paper).get("finding") or {}
    assert finding.get("written_for", {}) == recorded, "read finding.text of its conf/paper file again"
    assert not recorded or finding["text"]


def test_no_paper_is_named_in_the_engine() -> None:
    keys = set(papers())
    named = []
    for path in sorted((ROOT / "experiments").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        helps = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Assign) and isinstance(n.value, ast.Constant)}
        constants = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in helps]
        named += [f"{path.relative_to(ROOT)}:{n.lineno}" for n in constants if str(n.value) in keys]
    assert not named


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
    untracked = {path for path in (ROOT / "conf").rglob("*.yaml")} - tracked
    assert not untracked, f"git add {' '.join(str(path.relative_to(ROOT)) for path in sorted(untracked))}"


def test_no_line_of_configuration_is_longer_than_the_screen() -> None:
    long = []
    for path in sorted((ROOT / "conf").rglob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        long += [f"{path.relative_to(ROOT)}:{number}" for number, line in enumerate(lines, 1) if len(line) > 120]
    assert not long
