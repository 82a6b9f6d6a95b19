"""`extra=FOLDER`: an overlay, a folder of a user's own whose papers, data and code join the suite's. Imports no torch.

    mine/
      overlay.yaml                     name: mine, allow: [mine.modules.mixup.Mixup]
      conf/paper, recipe, data, sweep, arms     as in the suite's conf/
      modules/, datamodules/           its code, imported as mine.modules.x and mine.datamodules.x
      results/, runs/, site/           what is found with it; nothing of the suite's own is written

Its files are under the rules of the suite's: the same schema, plain YAML, the frame of a run is the user's. Besides,
none may have the name of one of the suite's, none may lie outside the folder, and a configuration builds of the
overlay's code what `allow` names, by whole names, and of libraries what the suite allows.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from experiments.common import memory
from experiments.common.errors import InputError, unknown
from experiments.common.overlay import CODE, Overlay, current, make_current
from experiments.common.paths import CONF, ROOT
from experiments.common.plain import Plain
from experiments.config import allowed, limits, reading
from experiments.config.written import CLOSED, Closed, Text, read
from experiments.identity import dependencies

FILE = "overlay.yaml"
GROUPS = ("paper", "recipe", "data", "sweep", "arms")  # of configuration; what a run is framed by is the user's
CHECKED = (FILE, "conf", *CODE, "results")  # what may not lead out of the folder; runs/ may be on another disk
RESERVED = ("experiments", "conf", "results", "runs", "site", "tests", "docs", *CODE)


@pydantic_dataclass(frozen=True, config=CLOSED)
class Declared(Closed):
    """What overlay.yaml says."""

    name: Text
    allow: list[Text] = Field(default_factory=list)
    about: Text = ""


@contextlib.contextmanager
def opened(folder: str | None) -> Iterator[Overlay | None]:
    """Open an overlay for what runs inside; without a folder, none is open there.

    Raises InputError naming file and line of thought for an overlay that breaks a rule, before anything of it is used.
    """
    overlay = None if folder is None else load(folder)
    _switch(overlay)
    try:
        if overlay is not None:
            check_code(overlay)
        yield overlay
    finally:
        _switch(None)


def _switch(overlay: Overlay | None) -> None:
    """Open or close, with everything forgotten that was read before."""
    if overlay != current():
        make_current(overlay)
        reading.forget()
        dependencies.forget()
        memory.forget()


def load(folder: str | Path) -> Overlay:
    """An overlay as its file declares it, its names and places checked; nothing is opened.

    Raises InputError for a folder that is none, a file outside of it, a name of Python's or the suite's.
    """
    path = Path(folder).resolve()
    if not path.is_dir():
        raise InputError(f"extra={folder}: no such folder; expected one with {FILE}, as docs/own-overlay.md shows")
    if path.is_relative_to(ROOT) or ROOT.is_relative_to(path):
        raise InputError(f"extra={folder}: expected a folder outside of {ROOT}, with a repository of its own")
    if re.fullmatch(r"[\w./+-]+", str(path)) is None:
        raise InputError(f"extra={path}: expected a path of letters, digits and . _ + - alone")
    if not (path / FILE).is_file():
        raise InputError(f"{path / FILE}: no such file; expected one with name: and allow:")
    check_places(path)
    declared = read(Declared, _mapping(path / FILE), FILE)
    overlay = Overlay(path, declared.name, frozenset(declared.allow), declared.about)
    _check_name(overlay.name)
    _check_conf(overlay)
    return overlay


def _mapping(path: Path) -> Plain:
    content = limits.read(path, path.name)
    if not isinstance(content, dict):
        raise InputError(f"{path.name}: expected a mapping with name: and allow:")
    return content


def check_places(folder: Path) -> None:
    """Raises InputError for a link in an overlay that leads out of it."""
    for part in CHECKED:
        for path in _below(folder / part):
            if path.is_symlink() and not path.resolve().is_relative_to(folder):
                name = path.relative_to(folder)
                raise InputError(f"{name}: a link to {path.resolve()}; expected nothing outside of {folder}")


def _below(path: Path) -> Iterator[Path]:
    yield path
    for folder, folders, names in os.walk(path):
        yield from (Path(folder) / name for name in (*folders, *names))


def _check_name(name: str) -> None:
    """Raises InputError for a name that Python or the project knows already."""
    if re.fullmatch(r"[a-z][a-z0-9_]*", name) is None:
        raise InputError(f"{FILE}: name={name!r:.60}: expected small letters, digits and _, as in name: mine")
    if name in RESERVED or name in sys.stdlib_module_names or _is_installed(name):
        raise InputError(f"{FILE}: name={name}: a package has this name; expected one that would shadow none")


def _is_installed(name: str) -> bool:
    """Whether a package or module of that name is installed; a bare folder that lies around is none."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def _check_conf(overlay: Overlay) -> None:
    """Raises InputError for configuration that is not of GROUPS, or has the name of one of the suite's."""
    for path in sorted(overlay.conf.rglob("*")):
        parts = path.relative_to(overlay.conf).parts
        name = f"conf/{'/'.join(parts)}"
        if parts[0] not in GROUPS:
            raise unknown(f"{overlay.name}/{name}: group of an overlay", parts[0], GROUPS)
        if path.is_dir():
            continue
        if path.suffix != ".yaml" or len(parts) == 1:
            raise InputError(f"{overlay.name}/{name}: expected a file conf/<group>/<name>.yaml")
        if parts[0] == "arms":
            _check_arm(overlay, parts, name)
        owner = parts[1] if len(parts) > 2 and parts[0] in ("recipe", "sweep") else None
        if CONF.joinpath(*parts).exists() or (owner and (CONF / "paper" / f"{owner}.yaml").exists()):
            raise InputError(f"{overlay.name}/{name}: shadows the suite's; expected a name that the suite has not")


def _check_arm(overlay: Overlay, parts: tuple[str, ...], name: str) -> None:
    """Raises InputError for an arm that is in no paper's folder."""
    if len(parts) != 3:
        raise InputError(f"{overlay.name}/{name}: expected conf/arms/<paper>/<name>.yaml")
    papers = sorted(path.stem for conf in (CONF, overlay.conf) for path in (conf / "paper").glob("*.yaml"))
    if parts[1] not in papers:
        raise unknown(f"{overlay.name}/{name}: paper", parts[1], papers)


def check_code(overlay: Overlay) -> None:
    """What an open overlay allows, and what its code imports.

    Raises InputError for a name in `allow` that is not one of its own classes or functions, and for code that imports
    the engine, or of the overlay what is no module: neither would be part of a result's identity.
    """
    for name in sorted(overlay.allow):
        if overlay.file(name.split(".")) is None:
            raise InputError(
                f"{FILE}: allow: {name!r:.100}: expected names of this overlay's own code, as "
                f"{overlay.name}.modules.x.Y; libraries are used inside of it"
            )
        allowed.check_target(name, f"{FILE}: allow")
    for folder in CODE:
        for path in sorted((overlay.folder / folder).rglob("*.py")):
            _check_imports(overlay, path)


def _check_imports(overlay: Overlay, path: Path) -> None:
    where = f"{overlay.name}/{path.relative_to(overlay.folder)}"
    if (size := path.stat().st_size) > limits.MOST_BYTES:
        raise InputError(f"{where}: {size} bytes; expected at most {limits.MOST_BYTES}")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), where)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{where}: no Python: {str(error) or type(error).__name__}") from error
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names = [node.module]
        for name in names:
            if name.split(".")[0] == "experiments":
                raise InputError(f"{where}: imports {name}; expected modules, datamodules and libraries")
