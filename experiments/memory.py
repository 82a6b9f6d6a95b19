"""Answers that take long and change only with the project's files, remembered in runs/remembered.json. No torch.

A checkout that cannot be written to only answers more slowly.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments import files

ROOT = Path(__file__).resolve().parent.parent
REMEMBERED = ROOT / "runs" / "remembered.json"
CONFIGURATION = ("conf", "experiments")  # what a composed configuration depends on
EVERYTHING = (*CONFIGURATION, "modules", "datamodules")  # what a fingerprint depends on
PATTERNS = {"conf": "*.yaml"}  # of the files in a folder, if not *.py


def remember(question: str, key: str, folders: tuple[str, ...], answer: Callable[[], Any]) -> Any:
    """What `answer()` gives, as JSON holds it; asked again only once a file in these folders has changed.

    Args:
        question: what is asked; its answers are kept together.
        key: what it is asked of.
        folders: CONFIGURATION or EVERYTHING.
    """
    state = state_of(folders)
    kept = (files.read_json(REMEMBERED) or {}).get(question) or {}
    if kept.get("state") != state:
        kept = {"state": state, "answers": {}}
    if key not in kept["answers"]:
        given = answer()
        stored = files.read_json(REMEMBERED) or {}  # answer() may have remembered something else
        mine = stored.get(question) or {}
        before = mine["answers"] if mine.get("state") == state else {}
        kept = {"state": state, "answers": {**before, key: given}}
        with contextlib.suppress(OSError):
            files.write_json(REMEMBERED, {**stored, question: kept})
    return kept["answers"][key]


@lru_cache
def state_of(folders: tuple[str, ...]) -> str:
    """A hash of the files in these folders and of where data is; read once per process."""
    digest = hashlib.sha256(os.environ.get("REPRISE_DATA", "").encode())
    for folder in folders:
        for path in sorted((ROOT / folder).rglob(PATTERNS.get(folder, "*.py"))):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
