"""Files that are either wholly there or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes `path`'s place if the block succeeds and vanishes if not.

    Raises OSError (disk full, read-only folder) with `path` untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    # made anew, with what the user's umask grants; nothing that has this name is followed or written to
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Of a file's content, 64 hex digits."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def inside(folder: Path, *names: str) -> Path | None:
    """A file or folder within `folder` by names that came from elsewhere; None if they lead out of it.

    A name is one step: no separator, no `..`, no NUL; a symbolic link on the way, or at its end, is not followed.
    """
    path = folder
    for name in names:
        if name in ("", ".", "..") or set(name) & {"/", "\\", "\0"}:
            return None
        path = path / name
        if path.is_symlink():
            return None
    return path


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Indented, with each list of plain numbers on one line."""
    text = json.dumps(value, indent=1)
    write_text(
        path, re.sub(r"\[[-+\d.eE,\sInfityNa]*\]", lambda m: "[" + " ".join(m.group()[1:-1].split()) + "]", text) + "\n"
    )


def read_json(path: Path) -> Any | None:
    """The value, or None when the file is missing or damaged: a damaged record counts as not written."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None  # ValueError: no JSON, no UTF-8, a number of 5,000 digits, a path that holds NUL
