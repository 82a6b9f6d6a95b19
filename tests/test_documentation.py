"""What README, CONTRIBUTING and docs/ tell a reader to type is understood, and their links lead somewhere."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.common.paths import ROOT
from experiments.config import compose, overlay
from tests.overlay.photos import write_photos

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FULL = sorted((ROOT / "docs/full").glob("*.md"))  # made by `make full-scale`, whose test looks at their commands
COMPOSES = ("reproduce", "run", "commands.tune", "commands.register", "commands.replicate", "commands.dashboard")
OWN = ("minutes", "stage", "base", "sweep", "hydra/launcher", "hydra/sweeper")  # read before or beside what is composed


def commands() -> list[str]:
    """Every line after a `$` in a console block, once, with its continuations and without its comment."""
    found: dict[str, None] = {}
    for page in PAGES:
        for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("$ "):
                    text = line[2:].replace("PAPER=K", "PAPER=zpe")
                    found[re.sub(r"\s+#\s.*$", "", text)] = None
    return list(found)


@lru_cache
def started(line: str) -> list[str]:
    """The words of what `make` would start: make itself refuses a target or a variable that it does not know."""
    if not line.startswith("make "):
        return shlex.split(line)
    done = subprocess.run(
        ["make", "--dry-run", "--assume-old=.venv/.ready", *shlex.split(line)[1:]],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{line}: {done.stderr}"
    told = done.stdout.replace("\\\n", " ")
    return shlex.split(told) if " -m experiments." in told else []


def test_there_are_commands_to_look_at() -> None:
    told = commands()
    assert "make test" in told
    assert len(told) > 30


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_documentation_is_understood(line: str, tmp_path: Path) -> None:
    words = started(line)
    module = words[words.index("-m") + 1].removeprefix("experiments.") if "-m" in words else ""
    if module not in COMPOSES:
        return
    arguments = [word for word in words[words.index("-m") + 2 :] if not word.startswith("-")]
    chosen = []
    for word in arguments:
        name = word.partition("=")[0]
        if name == "sweep":
            assert list((ROOT / "conf/sweep").glob(f"*/{word.partition('=')[2]}.yaml")), word
        elif name not in OWN and not name.startswith("hydra."):
            chosen.append(_first(word) if module == "run" else word)
    extra = [word for word in chosen if word.startswith("extra=")]
    folder = str(shutil.copytree(ROOT / "tests" / "overlay" / "mine", tmp_path / "mine")) if extra else None
    if folder and "data=my_photos" in chosen:
        write_photos(tmp_path / "mine" / "photos", 4)
    with overlay.opened(folder):
        asked = [word for word in chosen if word not in extra]
        compose.resolve(compose.compose(compose.request(asked).overrides), 0)


def _first(word: str) -> str:
    """An override with the first of the values that it sweeps over."""
    if not any(mark in word.partition("=")[2] for mark in ",("):
        return word
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return word
    choices = getattr(override.value(), "list", None)
    value = choices[0] if choices else getattr(override.value(), "start", 0)
    return f"{word.partition('=')[0]}={value}"


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, text) of every block of code in a language."""
    found = []
    for page in PAGES:
        for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            found.append((page.name, block))
    return found


@pytest.mark.parametrize(("page", "text"), blocks("yaml"))
def test_yaml_of_the_documentation_is_yaml_and_its_keys_are_known(page: str, text: str) -> None:
    """Where a page teaches papers' files, a first key stands in the schema of such a file or of one of its parts."""
    parsed = yaml.safe_load(text)
    items = parsed if isinstance(parsed, list) else [parsed]
    assert all(isinstance(item, dict) for item in items)
    if page == "verdicts.md":
        known = schema_keys(*(ROOT / "conf/schema").glob("*.json"))
        assert [key for item in items for key in item if key not in known] == []


def schema_keys(*paths: Path) -> set[str]:
    """The names of all properties of JSON schemas, however deep."""
    names: set[str] = set()

    def look(node: Any) -> None:
        if isinstance(node, dict):
            names.update(node.get("properties") or ())
            for value in node.values():
                look(value)
        elif isinstance(node, list):
            for value in node:
                look(value)

    for path in paths:
        look(json.loads(path.read_text(encoding="utf-8")))
    return names


def test_python_of_the_documentation_imports_what_is_there() -> None:
    texts = [text for _, text in blocks("python")]
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    lines = [line for page in pages for line in re.findall(r"`(from experiments[^`]*)`", page)]
    assert lines
    for text in (*texts, *lines):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                module = importlib.import_module(node.module)
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == [], text


def anchors(text: str) -> list[str]:
    """The headings of a page as GitHub and mkdocs name them in addresses: lower case, a hyphen for each space."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def test_anchors_of_headings() -> None:
    text = "# A verdict\n```yaml\n# a comment\n```\n## The `two`, and more\n"
    assert anchors(text) == ["a-verdict", "the-two-and-more"]


@pytest.mark.parametrize("page", [*PAGES, *FULL], ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    local = [target for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target]
    lost = []
    for target in local:
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text(encoding="utf-8"))):
            lost.append(target)
    assert lost == []


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
