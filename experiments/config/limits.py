"""How large a file of YAML may be, looked at before anything is made of it. Imports no torch.

A few lines of YAML can stand for more than a machine holds: each name (`&a`) may be repeated (`*a`) inside the next.
What is counted here are the events of the parser, each repetition with all that it stands for, so that a file which is
refused has cost no more than its own length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.common.errors import InputError
from experiments.common.text import ACTING

MOST_BYTES = 2**20
MOST_NODES = 200_000  # repetitions written out
MOST_DEPTH = 64
MOST_ARMS = 1_000  # that one `each` may stand for

PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read(path: Path, where: str, loader: Any = PARSER) -> Any:
    """A file of YAML as plain data.

    Args:
        path: the file.
        where: its name, for messages.
        loader: a safe one.
    Raises:
        InputError: it is not valid YAML, larger than allowed here, or holds a character that would act where it is
            shown.
    """
    if (size := path.stat().st_size) > MOST_BYTES:
        raise InputError(f"{where}: {size} bytes; expected at most {MOST_BYTES}")
    try:
        text = path.read_text(encoding="utf-8")
        check(text, where)
        content = yaml.load(text, loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a day 99, a number of 5,000 digits
        told = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise InputError(f"{where}: no YAML: {told[:300]}") from error
    if "\\" in text or ACTING.search(text):
        check_texts(content, where)
    return content


def check(text: str, where: str) -> None:
    """Look at the size of a text of YAML.

    Raises:
        InputError: it is too deep, stands for too much, or holds itself; it names `where` and the limit.
        yaml.YAMLError: it is not valid YAML.
    """
    nodes = _Nodes(where)
    for event in yaml.parse(text, PARSER):
        nodes.take(event)


class _Nodes:
    """Counts what a stream of events stands for.

    Attributes:
        count: nodes so far, repetitions with all that they stand for.
        open: of each mapping or list that is not closed yet, its name or None, and the count when it began.
        named: name -> how many nodes it stands for; None while it is open.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.count = 0
        self.open: list[tuple[str | None, int]] = []
        self.named: dict[str, int | None] = {}

    def take(self, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent):
            self._repeat(event)
        elif isinstance(event, yaml.ScalarEvent):
            self._grow(1, event)
            if event.anchor:
                self.named[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            self.open.append((event.anchor, self.count))
            if len(self.open) > MOST_DEPTH:
                raise self._refusal(event, f"nested {len(self.open)} deep; expected at most {MOST_DEPTH}")
            if event.anchor:
                self.named[event.anchor] = None
            self._grow(1, event)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self.open.pop()
            if anchor:
                self.named[anchor] = self.count - before

    def _repeat(self, event: Any) -> None:
        size = self.named.get(event.anchor, 0)  # one that does not exist is told where it is read
        if size is None:
            raise self._refusal(event, f"*{event.anchor} stands inside &{event.anchor}: it would hold itself")
        self._grow(size, event)

    def _grow(self, size: int, event: Any) -> None:
        self.count += size
        if self.count > MOST_NODES:
            raise self._refusal(event, f"more than {MOST_NODES} values, what repeats written out")

    def _refusal(self, event: Any, told: str) -> InputError:
        return InputError(f"{self.where}: line {event.start_mark.line + 1}: {told}")


def check_texts(value: Any, where: str) -> None:
    """Raises InputError for a text with a character that would act where it is shown or opened, as NUL and ESC do."""
    if isinstance(value, str):
        if mark := ACTING.search(value):
            raise InputError(f"{where}: {value[:60]!r}: expected no control character, got U+{ord(mark[0]):04X}")
    elif isinstance(value, Mapping):
        for key, part in value.items():
            check_texts(key, where)
            check_texts(part, where)
    elif isinstance(value, Sequence):
        for part in value:
            check_texts(part, where)


def count_arms(choices: Mapping[str, Sequence[Any]], where: str) -> int:
    """How many combinations lists have together. Raises InputError for more than MOST_ARMS."""
    count = 1
    for name, values in choices.items():
        count *= len(values)
        if count > MOST_ARMS:
            raise InputError(f"{where}: {count} combinations up to {name!r}; expected at most {MOST_ARMS}")
    return count
