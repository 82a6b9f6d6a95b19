"""What a run needs that does not come with the install: pictures, weights, packages, declared beside what reads them.

A datamodule's need follows from its `Spec` and its `available()`. Two names that a file of modules/ or datamodules/ may
bind say the rest:

    COUNTS = {"ImageNet": counts}   class -> what its folders hold, given the datamodule: {folder below the root: files}
    NEEDS = {"convnext_tiny": needs}   class or function -> its needs, given the arguments of its configuration

`experiments.running.needs` looks at all of them, before anything is registered or trained. Both names stand beside the
class and not in it: what a class computes does not depend on them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datamodules.common.base import DataError, DataModule, Spec
from datamodules.common.folders import Source
from datamodules.common.torchvision_sets import TorchvisionSet

EVERY = "*"  # in COUNTS: all folders but `train`


@dataclass(frozen=True)
class Need:
    """One thing that has to be on this machine.

    Attributes:
        name: of the dataset, the weights or the package.
        files: where they lie, or are put.
        look: gives one line that says what is missing, empty where nothing is.
        source: address, or how to ask for it.
        split: which part, and how it is split.
        count: images by split, or files by folder.
        checksum: what its source publishes, with the kind of it: "md5 c58f30108f718f92721af3b95e74349a".
        size: bytes to fetch; None where they are not known.
        fetch: puts it there where a network is at hand; raises OSError, RuntimeError or DataError where it cannot. None
            where somebody has to.
    """

    name: str
    files: str
    look: Callable[[], str] = field(compare=False, repr=False)
    source: str = ""
    split: str = ""
    count: Mapping[str, int] = field(default_factory=dict, hash=False)
    checksum: str = ""
    size: int | None = None
    fetch: Callable[[], None] | None = field(default=None, compare=False, repr=False)


def of_data(data: Any) -> Need | None:
    """What a datamodule, or a part of one that says `available()`, reads; None where it reads nothing."""
    if not isinstance(data, DataModule):
        return _of_part(data) if callable(getattr(data, "available", None)) else None
    if data.generated:
        return None
    root = Path(str(getattr(data, "root", "")))
    declared = _declared(data)
    counts = counts_of(data)

    def look() -> str:
        return data.available() or _differs(root, counts, declared.name, declared.where)

    need = Need(
        name=declared.name,
        files=str(root),
        look=look,
        source=declared.where,
        split=declared.split,
        count=counts or {split: count for split, count in declared.sizes.items() if count},
    )
    if isinstance(data, TorchvisionSet):
        return replace(need, checksum=_torchvision_checksum(data.kind), fetch=data.prepare_data)
    return need


def _of_part(part: Any) -> Need:
    """What is not a datamodule itself has a place, and says the rest in its own words."""
    place = str(getattr(part, "root", "") or getattr(part, "file", "") or getattr(part, "path", ""))
    size = int(getattr(part, "size", 0) or 0)
    counts = counts_of(part)
    name, where = str(getattr(part, "title", "") or Path(place).name), str(getattr(part, "where", ""))

    def look() -> str:
        return str(part.available()) or _differs(Path(place), counts, name, where)

    return Need(name, place, look, where, count=counts or ({"images": size} if size else {}))


def counts_of(data: Any) -> dict[str, int]:
    """Files by folder below a datamodule's root, as COUNTS beside its class or the nearest of its bases says."""
    for kind in type(data).__mro__:
        counts = vars(sys.modules[kind.__module__]).get("COUNTS", {})
        if kind.__name__ in counts:
            return dict(counts[kind.__name__](data))
    return {}


def _declared(data: DataModule) -> Spec:
    """The spec before anything is read; without sizes where a datamodule takes whatever its folder holds."""
    data.generated = True
    try:
        return data.spec
    except DataError:
        title, where = (str(getattr(data, key, "")) for key in ("title", "where"))
        return Spec(title or type(data).__name__, (), (), {}, (), (), "", where=where)
    finally:
        data.generated = False


def _differs(root: Path, counts: Mapping[str, int], name: str, where: str) -> str:
    """Whether a folder, or a zip of it, holds another number of files than its dataset has; folders not there pass."""
    if not counts:
        return ""
    try:
        there = Source(root).files
    except DataError as error:
        return str(error)
    for folder, count in counts.items():
        folders = [name for name in there if name != "train"] if folder == EVERY else [folder]
        files = sum(len(names) for part in folders for names in there.get(part, {}).values())
        if files and files != count:
            place = root if folder == EVERY else root / folder
            return f"{place} holds {files:,} images; {name} has {count:,}. {where}"
    return ""


def _torchvision_checksum(kind: str) -> str:
    """The MD5 that torchvision compares a dataset's archive with; of several archives the first's."""
    from torchvision import datasets

    known = getattr(datasets, kind)
    resources = getattr(known, "resources", None)
    marks = [known.tgz_md5] if hasattr(known, "tgz_md5") else [mark for _, mark in resources or ()]
    return f"md5 {marks[0]}" if marks else ""
