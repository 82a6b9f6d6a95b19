"""What a stage's result rests on, as a short hash: its configuration, seed, predecessors and code.

Comments, docstrings and layout do not count; a change of any statement does, in the module's and the datamodule's file
and in every first-party file they import. Imports no torch.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments.compose import ROOT

FIRST_PARTY = ("modules", "datamodules", "experiments")
NOT_IDENTITY = {"about", "root", "num_workers"}  # they change where and how fast, not what


def targets(config: Any) -> Iterator[str]:
    """Every `_target_` in a configuration, however deep."""
    if isinstance(config, Mapping):
        if isinstance(config.get("_target_"), str):
            yield config["_target_"]
        for value in config.values():
            yield from targets(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from targets(value)


def _file_of(module: str) -> Path | None:
    """The first-party file that defines a dotted module name or an object in it."""
    parts = module.split(".")
    if parts[0] not in FIRST_PARTY:
        return None
    while parts:
        base = ROOT.joinpath(*parts)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
        parts.pop()
    return None


@lru_cache
def _parsed(path: Path) -> tuple[str, tuple[Path, ...]]:
    """The file's statements without docstrings, and the first-party files it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported: list[Path | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported += [_file_of(alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            imported += [_file_of(f"{node.module}.{alias.name}") for alias in node.names]
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree), tuple(sorted({file for file in imported if file is not None}))


def code_files(names: Sequence[str]) -> list[Path]:
    """Every first-party file that these `_target_`s rest on."""
    seen: set[Path] = set()
    queue = [file for name in names if (file := _file_of(name)) is not None]
    while queue:
        file = queue.pop()
        if file not in seen:
            seen.add(file)
            queue += _parsed(file)[1]
    return sorted(seen)


def _identity(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {key: _identity(value) for key, value in config.items() if key not in NOT_IDENTITY}
    if isinstance(config, list | tuple):
        return [_identity(value) for value in config]
    return config


def fingerprint(config: Mapping[str, Any], seed: int, needs: Mapping[str, Sequence[str]]) -> str:
    """Twelve hex digits for a stage.

    Args:
        config: the stage's resolved configuration, the merged trainer included.
        seed: the run's seed.
        needs: constructor argument -> fingerprints of the stages that fill it.
    """
    code = {str(file.relative_to(ROOT)): _parsed(file)[0] for file in code_files(sorted(set(targets(config))))}
    content = {"config": _identity(config), "seed": seed, "needs": needs, "code": code}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]
