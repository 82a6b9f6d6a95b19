"""What lies in the files that a stage reads its data from, as a hash. Imports no torch.

A datamodule with a `root` reads everything below it (or the zip beside it). One that shares its root with other
datasets says in a class attribute `stored` which files are its own, in `stored_when` with which options it reads them,
and in `shipped` what comes with this project. A file is read again only when its size or one of its times changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments.common import files
from experiments.common.paths import ROOT
from experiments.identity import definitions

REMEMBERED = ROOT / "runs" / "content.json"
MOST = 20_000  # files of a dataset; of a larger one names, sizes and times stand for what is in them
_off: list[bool] = []  # one for each `nothing_read` that is open
DERIVED = {"preprocessed"}  # folders below a root that we write ourselves


def digest(data: Mapping[str, Any]) -> str:
    """Twelve hex digits for the files of a stage's data; empty where none is read or a set of them is not here.

    Args:
        data: the stage's resolved data configuration.
    """
    return "" if _off else _digest(json.dumps(data, sort_keys=True, default=str))


@contextlib.contextmanager
def nothing_read() -> Iterator[None]:
    """Look at no file of data: somebody else's configuration says which, and it could name any of this machine's."""
    _off.append(True)
    try:
        yield
    finally:
        _off.pop()


@lru_cache
def _digest(data: str) -> str:
    there: dict[str, Path] = {}
    for node in targets(json.loads(data)):
        shipped = definitions.attribute(str(node["_target_"]), "shipped")
        if isinstance(shipped, str):
            there[shipped] = definitions.root_of(str(node["_target_"])) / shipped
        if isinstance(node.get("root"), str) and reads_files(node):
            fetched = dict(_below_root(node))
            if not fetched:
                return ""
            there |= fetched
    if not there:
        return ""
    total = hashlib.sha256()
    remembered = _known() if len(there) <= MOST else {}
    before = dict(remembered)
    for name, path in sorted(there.items()):
        total.update(f"{name}\0{_hashed(path, remembered) if len(there) <= MOST else _stamp(path)}\0".encode())
    if remembered != before:
        files.write_json(REMEMBERED, remembered)
    return total.hexdigest()[:12]


def differs(data: Mapping[str, Any], then: str) -> bool:
    """Whether a stage's files are here and are others than those it was trained on."""
    now = digest(data) if then else ""
    return bool(then and now and then != now)


def forget() -> None:
    """Look at the files again: they may have been fetched."""
    _digest.cache_clear()


def targets(config: Any) -> Iterator[Mapping[str, Any]]:
    """Every node of a configuration that names what it is built as."""
    if isinstance(config, Mapping):
        if isinstance(config.get("_target_"), str):
            yield config
        for value in config.values():
            yield from targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from targets(value)


def reads_files(node: Mapping[str, Any]) -> bool:
    """Whether a datamodule with a `root` reads it, with these options."""
    when = definitions.attribute(str(node["_target_"]), "stored_when") or {}
    return all(node.get(key) == value for key, value in when.items())


def _below_root(node: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """(name, path) of what a datamodule reads from its root and is there."""
    root = Path(node["root"])
    stored = definitions.attribute(str(node["_target_"]), "stored")
    if stored is not None:
        for pattern in [stored] if isinstance(stored, str) else stored:
            yield from ((path.relative_to(root).as_posix(), path) for path in root.glob(pattern) if path.is_file())
        return
    zipped = root if root.suffix == ".zip" else root.with_name(root.name + ".zip")
    if zipped.is_file() and not root.is_dir():
        yield zipped.name, zipped
    for path in root.rglob("*") if root.is_dir() else ():
        if path.is_file() and not DERIVED & set(path.relative_to(root).parts):
            yield path.relative_to(root).as_posix(), path


def _stamp(path: Path) -> str:
    state = path.stat()
    return f"{state.st_size} {state.st_mtime_ns}"


def _hashed(path: Path, known: dict[str, list[str]]) -> str:
    key = str(path.resolve())
    stamp = f"{_stamp(path)} {path.stat().st_ctime_ns}"  # set by the system, whatever time a copied file brings along
    if known.get(key, ["", ""])[0] != stamp:
        known[key] = [stamp, files.sha256(path)]
    return known[key][1]


def _known() -> dict[str, list[str]]:
    remembered = files.read_json(REMEMBERED)
    return remembered if isinstance(remembered, dict) else {}
