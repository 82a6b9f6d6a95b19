"""The overlay of this process: a folder of a user's own, whose papers, data and code join the suite's. No torch.

An overlay is opened by experiments.config.overlay, which checks it first. Its code is imported below one name, that of
the overlay: `mine.modules.x` is modules/x.py of its folder. Nothing else of the folder can be imported, no path is
searched, and a name that Python or the project knows is refused: an overlay shadows nothing.

Processes that this one starts (workers, ranks, jobs of a launcher) find what was opened in the environment.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

from experiments.common.paths import ROOT

VARIABLE = "REPRISE_OVERLAY"  # of the environment; commands set it from extra=FOLDER and take it away without
CODE = ("modules", "datamodules")  # folders of an overlay that code is imported from


@dataclass(frozen=True)
class Overlay:
    """A folder of a user's own.

    Attributes:
        folder: absolute, without links.
        name: of the package that its code is imported below.
        allow: whole names of its classes and functions that a configuration may build.
        about: one line for those who read its results.
    """

    folder: Path
    name: str
    allow: frozenset[str]
    about: str = ""

    @property
    def conf(self) -> Path:
        return self.folder / "conf"

    def holds(self, dotted: str) -> bool:
        """Whether a dotted name is one of this overlay's modules, or lies in one."""
        return dotted.split(".")[0] == self.name

    def file(self, parts: Sequence[str]) -> Path | None:
        """Where a dotted name would lie, without an ending; None where it names no code of this overlay."""
        if len(parts) < 2 or parts[0] != self.name or parts[1] not in CODE:
            return None
        return self.folder.joinpath(*parts[1:])


def current() -> Overlay | None:
    """The overlay that is open, if one is."""
    return _of(os.environ.get(VARIABLE, ""))


@lru_cache(maxsize=1)
def _of(text: str) -> Overlay | None:
    """The overlay that a variable's text names, its code importable from here on."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    if not text:
        return None
    said = json.loads(text)
    overlay = Overlay(Path(said["folder"]), said["name"], frozenset(said["allow"]), said["about"])
    sys.meta_path.insert(0, _Finder(overlay))
    return overlay


def make_current(overlay: Overlay | None) -> None:
    """Open an overlay that was checked, here and in all processes that are started from now on; None closes it."""
    before = current()
    if before is not None:
        for module in [name for name in sys.modules if before.holds(name)]:
            del sys.modules[module]
    if overlay is None:
        os.environ.pop(VARIABLE, None)
    else:
        said = {"folder": str(overlay.folder), "name": overlay.name, "allow": sorted(overlay.allow)}
        os.environ[VARIABLE] = json.dumps({**said, "about": overlay.about})
    current()


def home() -> Path:
    """Where results, registrations, runs and pages are: the overlay's folder if one is open, else the project's."""
    overlay = current()
    return ROOT if overlay is None else overlay.folder


def typed() -> str:
    """What a command of make says of the open overlay, with a space before it; empty where none is open."""
    overlay = current()
    return "" if overlay is None else f" EXTRA={os.path.relpath(overlay.folder, ROOT)}"


class _Finder(MetaPathFinder):
    """Imports an overlay's code, and of its folder nothing else."""

    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not self.overlay.holds(fullname):
            return None
        parts = fullname.split(".")
        if len(parts) == 1:
            spec = ModuleSpec(fullname, None, is_package=True)  # a package without files: its parts alone are found
            return spec
        if len(parts) == 2 and parts[1] in CODE:
            return PathFinder.find_spec(fullname, [str(self.overlay.folder)], target)
        if len(parts) == 2:
            return None
        return PathFinder.find_spec(fullname, path, target)
