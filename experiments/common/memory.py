"""Answers that take long and change only with the project's files, remembered in runs/remembered.json. No torch.

A checkout that cannot be written to only answers more slowly.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments.common import files, overlay
from experiments.common.paths import ROOT
from experiments.common.plain import Plain

REMEMBERED = ROOT / "runs" / "remembered.json"
CONFIGURATION = ("conf", "experiments")  # what a composed configuration depends on
EVERYTHING = (*CONFIGURATION, "modules", "datamodules")  # what a fingerprint depends on
PATTERNS = {"conf": "*.yaml"}  # of the files in a folder, if not *.py
_off: list[bool] = []  # one for each `nothing_remembered` that is open


def remember(question: str, paper: str, key: str, folders: tuple[str, ...], answer: Callable[[], Any]) -> Any:
    """What `answer()` gives, as JSON holds it; asked again only once a file that concerns the paper has changed.

    Args:
        question: what is asked; its answers for a paper are kept together.
        paper: other papers' own files do not concern it.
        key: what else it is asked of.
        folders: CONFIGURATION or EVERYTHING.
    """
    if _off:
        return answer()
    name = f"{question} of {paper}"
    state = state_of(folders, paper)
    answers = _answers(_stored(), name, state)
    if key not in answers:
        fresh = answer()
        stored = _stored()  # answer() may have remembered something else
        answers = {**_answers(stored, name, state), key: fresh}
        with contextlib.suppress(OSError):
            files.write_json(_place(), {**stored, name: {"state": state, "answers": answers}})
    return answers[key]


@contextlib.contextmanager
def nothing_remembered() -> Iterator[None]:
    """Ask everything anew: where somebody else could have written the answers."""
    _off.append(True)
    try:
        yield
    finally:
        _off.pop()


def _place() -> Path:
    """The file of answers: an overlay has its own."""
    return REMEMBERED if overlay.current() is None else overlay.home() / "runs" / REMEMBERED.name


def _stored() -> Plain:
    """Everything that is remembered; nothing where the file is missing or something else."""
    stored = files.read_json(_place())
    return stored if isinstance(stored, dict) else {}


def _answers(stored: Plain, name: str, state: str) -> Plain:
    """The remembered answers to one question about one paper; none where its files changed since, or it is damaged."""
    item = stored.get(name)
    if not isinstance(item, dict) or item.get("state") != state or not isinstance(item.get("answers"), dict):
        return {}
    answers: Plain = item["answers"]
    return answers


def state_of(folders: tuple[str, ...], paper: str) -> str:
    """A hash of the files in these folders that concern a paper, and of where data is; read once per process."""
    digest = hashlib.sha256(os.environ.get("REPRISE_DATA", "").encode())
    marks = _marks()
    others = {path.stem for path in (ROOT / "conf" / "paper").glob("*.yaml")} - {paper}
    for folder in folders:
        for name, mark in marks[folder].items():
            if _room(name) not in others:
                digest.update(f"{name}\0{mark}".encode())
    return digest.hexdigest()[:16]


@lru_cache
def _marks() -> dict[str, dict[str, str]]:
    """By folder, the hash of each of its files, an overlay's among them."""
    return {
        folder: {
            _name(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for root in dict.fromkeys((ROOT, overlay.home() if overlay.current() is not None else ROOT))
            for path in sorted((root / folder).rglob(PATTERNS.get(folder, "*.py")))
        }
        for folder in EVERYTHING
    }


def _name(path: Path) -> str:
    """Of a file of the project as it lies there; of one of an overlay its whole path, which is no paper's room."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()


def forget() -> None:
    """Look at the files again: an overlay was opened or closed."""
    _marks.cache_clear()


def _room(name: str) -> str | None:
    """Whose file it is: a paper's key, "common", or None. No paper uses another one's, which tests hold."""
    parts = name.split("/")
    if parts[0] == "conf":
        return parts[2].removesuffix(".yaml") if parts[1] in ("paper", "recipe") else None
    return parts[1].removesuffix(".py") if parts[0] in ("modules", "datamodules") else None
