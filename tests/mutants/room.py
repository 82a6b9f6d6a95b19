"""What is mutated, by whose tests it is judged, and what is left out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from experiments.common.errors import unknown
from experiments.common.paths import ROOT
from experiments.config import compose

COMMON = "common"
FIGURES = ("pictures.py", "figures.py")  # what draws: its tests ask whether it draws, not what
EXPORTS = "__init__.py"


@dataclass(frozen=True)
class Room:
    """The code of a paper, or of modules/common, and its own tests; both relative to the project's folder."""

    name: str
    files: tuple[str, ...]
    tests: tuple[str, ...]

    def content(self) -> str:
        """A hash of the code that is mutated: the same mutants have the same names under it."""
        whole = hashlib.sha256()
        for file in self.files:
            whole.update(file.encode() + b"\0" + (ROOT / file).read_bytes() + b"\0")
        return whole.hexdigest()[:16]


def find(name: str) -> Room:
    """The room of this name.

    Raises:
        InputError: neither a paper nor `common`.
    """
    if name == COMMON:
        sources = [ROOT / "modules" / COMMON]
        tests = ["tests/modules/common"]
    elif name in compose.papers():
        sources = [ROOT / kind / f"{name}{suffix}" for kind in ("modules", "datamodules") for suffix in ("", ".py")]
        tests = [f"tests/papers/{name}", f"tests/datamodules/{name}", f"tests/datamodules/test_{name}.py"]
    else:
        raise unknown("paper", name, [*compose.papers(), COMMON])

    found = sorted(path for source in sources for path in _python(source))
    files = tuple(path.relative_to(ROOT).as_posix() for path in found if path.name not in (*FIGURES, EXPORTS))
    return Room(name, files, tuple(test for test in tests if (ROOT / test).exists()))


def _python(source: Path) -> list[Path]:
    if source.is_dir():
        return sorted(source.rglob("*.py"))
    return [source] if source.is_file() else []
