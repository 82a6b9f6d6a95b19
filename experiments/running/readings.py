"""What this process has read of a dataset's files, kept for the stages that follow: a paper has many on one dataset.

It stands here and not in the datamodules: a record is stale once code changes that its stages reach, and who reads
files once changes no number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

from datamodules.common.arrays import Split
from datamodules.common.base import DataModule
from datamodules.common.torchvision_sets import CIFAR10, CIFAR100, MNIST, FashionMNIST, TorchvisionSet

Reading = tuple[Split, Split]
WHOLE = (MNIST, FashionMNIST, CIFAR10, CIFAR100)  # what they read depends on their files and `subset` alone
MOST = 2  # datasets of a process; the one not asked for the longest goes
_kept: dict[tuple[Any, ...], Reading] = {}


def share(data: DataModule) -> None:
    """Let what `data` reads from files come from an earlier stage's reading, as long as the files are the same.

    Sixty thousand pictures in a zip take ten seconds, as long as many a stage at mini trains.
    """
    for source in _sources(data):
        source.read = partial(_read_once, source, source.read)  # type: ignore[method-assign]


def _sources(data: DataModule) -> Iterator[TorchvisionSet]:
    """The dataset that `data` is, or those that it serves in its own way."""
    if type(data) in WHOLE:
        yield cast(TorchvisionSet, data)
    for value in vars(data).values():
        if isinstance(value, DataModule):
            yield from _sources(value)


def _read_once(source: TorchvisionSet, read: Callable[[], Reading]) -> Reading:
    key = (type(source), getattr(source, "subset", None), *_stamps(source))
    reading = _kept.pop(key, None) or read()
    _kept[key] = reading
    while len(_kept) > MOST:
        del _kept[next(iter(_kept))]
    return reading


def _stamps(source: TorchvisionSet) -> Iterator[tuple[str, int, int]]:
    """(path, size, time of the last change) of its files."""
    stored = cast("str | tuple[str, ...]", source.stored)  # type: ignore[attr-defined]
    patterns = [stored] if isinstance(stored, str) else stored
    for path in sorted({path for pattern in patterns for path in source.root.glob(pattern)}):
        state = path.stat()
        yield str(path.resolve()), state.st_size, state.st_mtime_ns
