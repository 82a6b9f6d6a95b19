"""Which content the files of a dataset have, so that what is made of them is made anew when they change."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from datamodules.common.base import DataError

DIGITS = 12


def combine(*contents: str) -> str:
    """One mark for several."""
    return hashlib.sha256("\n".join(contents).encode()).hexdigest()[:DIGITS]


def read_contents(files: Sequence[Path], ledger: Path, workers: int = 1) -> dict[Path, str]:
    """A mark of each file's bytes.

    Scans are large: a file is read again only where its size, or the time at which it or its entry in the folder
    changed, is another than the ledger says.

    Args:
        files: by paths whose last two parts tell them apart.
        ledger: a JSON file, which is brought up to date; one that is missing or damaged is written anew.
        workers: how many files are read at the same time.
    Raises:
        DataError: a file that cannot be read.
    """
    entries = _read_ledger(ledger)
    stamps = {file: _stamp(file) for file in files}
    changed = [file for file in files if (entries.get(_key(file)) or {}).get("stamp") != stamps[file]]
    if changed:
        with ThreadPoolExecutor(max(1, workers)) as pool:
            marks = list(pool.map(_mark, changed))
        entries |= {
            _key(file): {"stamp": stamps[file], "content": mark} for file, mark in zip(changed, marks, strict=True)
        }
        _write_ledger(ledger, entries)
    return {file: str(entries[_key(file)]["content"]) for file in files}


def _key(file: Path) -> str:
    return f"{file.parent.name}/{file.name}"


def _stamp(file: Path) -> list[int]:
    """Size and times of change; the second is set by the system, whatever time a copied file brings along."""
    try:
        status = file.stat()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})") from error
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _mark(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:DIGITS]
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror})") from error


def _read_ledger(ledger: Path) -> dict[str, dict[str, object]]:
    try:
        entries = json.loads(ledger.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    whole = isinstance(entries, dict) and all(isinstance(e, dict) and "content" in e for e in entries.values())
    return entries if whole else {}


def _write_ledger(ledger: Path, entries: dict[str, dict[str, object]]) -> None:
    ledger.parent.mkdir(parents=True, exist_ok=True)
    part = ledger.with_suffix(f".part{os.getpid()}")
    part.write_text(json.dumps(entries, indent=0, sort_keys=True), encoding="utf-8")
    part.replace(ledger)
